"""Kill trainings with SIGKILL at random moments of each phase, go on, and compare with one that was never stopped.

python tests/survival.py KILLS CSV [SEED]   adds a row for each kill to the CSV, and prints what went wrong"""
import hashlib, json, os, random, re, shutil, subprocess, sys, tempfile, time
from collections import Counter
from pathlib import Path

import pandas as pd

TRAININGS = {
    'words':'train sample --recipe bow --epochs 8 --device cpu', # Quick, for the tests
    'frozen':'train sample --recipe multimodal-fast --set text=bow,tokenizer=bpe --size 96 --epochs 40 --device cpu',
    'fine-tuned':'train sample --recipe efficientnet-lite0 --size 64 --epochs 4 --device cpu'}

PHASES = ('training','checkpoint','evaluation','load','report','start')

def start(words, out, cache):
    "A training in a process of its own, with one thread"
    env = dict(os.environ, GARBAGE_CLF_CACHE=str(cache), OMP_NUM_THREADS='1')
    return subprocess.Popen([sys.executable, '-m', 'garbage_clf.cli', *words.split(), '--out', out], env=env,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def log_of(out): return (out/'log.txt').read_text() if (out/'log.txt').exists() else ''

def logged_epochs(out): return len(re.findall(r'INFO epoch \d+ of', log_of(out)))

def saved_epochs(out):
    "Epochs in the state that is kept"
    from safetensors import safe_open
    state = out/'last'/'state.safetensors'
    try:
        with safe_open(state, 'pt') as f: return json.loads(f.metadata()['state'])['epoch']+1
    except (OSError,RuntimeError): return 0 # Not there yet, or gone with `last/`

def phase(out):
    "What a training is doing, or was when it ended; an epoch is whole when its state is saved"
    text = log_of(out)
    if (out/'recipe.json').exists(): return 'report'
    if 'best epoch' in text: return 'evaluation'
    if not logged_epochs(out): return 'load' if text else 'start'
    return 'checkpoint' if logged_epochs(out)>saved_epochs(out) else 'training'

def finish(words, out, cache):
    "Go on until there is a report; how often, and after which epoch"
    for n in range(1, 5):
        if (out/'report.html').exists(): return n-1
        finished = (out/'recipe.json').exists()
        again = f'report {out}' if finished else words+(' --resume' if (out/'last'/'state.safetensors').exists() else '')
        env = dict(os.environ, GARBAGE_CLF_CACHE=str(cache), OMP_NUM_THREADS='1')
        command = again.split() if finished else [*again.split(), '--out', out]
        done = subprocess.run([sys.executable, '-m', 'garbage_clf.cli', *command], env=env, capture_output=True, text=True)
        if done.returncode: raise RuntimeError(f'{out}: {done.stderr[-500:]}')
    return 9

def outcome(out):
    "What a run says: weights, and everything but seconds and dates"
    metrics = json.loads((out/'metrics.json').read_text())
    metrics.pop('seconds')
    stats = pd.read_csv(out/'training_stats.csv').drop(columns='seconds')
    digest = hashlib.sha256((out/'model.safetensors').read_bytes()).hexdigest()
    return digest,json.dumps(metrics),stats.to_csv(),(out/'evaluation_results.csv').read_text()

def watch(process, out):
    "Seconds of each phase of a training, until it ends"
    seconds,began = Counter(),time.monotonic()
    while process.poll() is None:
        time.sleep(.005)
        now = time.monotonic()
        seconds[phase(out)] += now-began
        began = now
    if process.returncode: raise RuntimeError(process.stderr.read()[-500:])
    return seconds

def wait_for(process, out, name):
    while process.poll() is None and phase(out)!=name: time.sleep(.001)

def kill_within(process, out, wanted, seconds, share):
    "Kill a training within a phase, after a share of its seconds; within a checkpoint: the next one of that moment"
    during = 'training' if wanted=='checkpoint' else wanted
    wait_for(process, out, during)
    time.sleep(seconds[during]*share)
    if wanted=='checkpoint': wait_for(process, out, wanted)
    process.kill()
    process.wait()

def one_kill(name, folder, wanted, seconds, share, expected):
    "Kill a training, finish it, and compare"
    words,out = TRAININGS[name],folder/'killed'
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(folder/'cache', ignore_errors=True)
    kill_within(start(words, out, folder/'cache'), out, wanted, seconds, share)
    row = dict(training=name, share=round(share, 2), phase=phase(out), epochs_logged=logged_epochs(out))
    row['epochs_saved'] = row['epochs_logged'] if row['phase']=='report' else saved_epochs(out)
    row['restarts'] = finish(words, out, folder/'cache')
    row['same'] = outcome(out)==expected
    row['lost_epochs'] = row['epochs_logged']-row['epochs_saved']-(row['phase']=='checkpoint')
    return row

def run(kills, path, seed=0, names=tuple(TRAININGS)):
    "Rows of kills, at random moments of one phase after another"
    rng,rows = random.Random(seed),[]
    with tempfile.TemporaryDirectory() as d:
        for name in names:
            folder = Path(d)/name
            seconds = watch(start(TRAININGS[name], folder/'straight', folder/'cache'), folder/'straight')
            expected = outcome(folder/'straight')
            for i in range(kills//len(names)):
                rows.append(one_kill(name, folder, PHASES[i%len(PHASES)], seconds, .95*rng.random(), expected))
                print(rows[-1], flush=True)
                if path: pd.DataFrame(rows).to_csv(path, index=False)
    return pd.DataFrame(rows)

if __name__=='__main__':
    table = run(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
    print(f'{int(table.same.sum())} of {len(table)} as never stopped; most epochs lost {table.lost_epochs.max()}')
