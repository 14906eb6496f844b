"""Kill trainings with SIGKILL at random moments, go on with them, and compare with one that was never stopped.

python tests/survival.py KILLS CSV [SEED]   adds a row for each kill to the CSV, and prints what went wrong"""
import hashlib, json, os, random, re, shutil, subprocess, sys, tempfile, time
from pathlib import Path

import pandas as pd

TRAININGS = {
    'words':'train sample --recipe bow --epochs 8 --device cpu', # Quick, for the tests
    'frozen':'train sample --recipe multimodal-fast --set text=bow,tokenizer=bpe --size 96 --epochs 40 --device cpu',
    'fine-tuned':'train sample --recipe efficientnet-lite0 --size 64 --epochs 4 --device cpu'}

def start(words, out, cache):
    "A training in a process of its own, with one thread"
    env = dict(os.environ, GARBAGE_CLF_CACHE=str(cache), OMP_NUM_THREADS='1')
    return subprocess.Popen([sys.executable, '-m', 'garbage_clf.cli', *words.split(), '--out', out], env=env,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def log_of(out): return (out/'log.txt').read_text() if (out/'log.txt').exists() else ''

def saved_epochs(out):
    "Epochs in the state that is kept"
    from safetensors import safe_open
    state = out/'last'/'state.safetensors'
    if not state.exists(): return 0
    with safe_open(state, 'pt') as f: return json.loads(f.metadata()['state'])['epoch']+1

def phase(out):
    "What a training was doing"
    text = log_of(out)
    if (out/'recipe.json').exists(): return 'report'
    if 'best epoch' in text: return 'evaluation'
    if re.search(r'INFO epoch \d+ of', text): return 'training'
    return 'load' if text else 'start'

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

def one_kill(name, folder, moment, expected):
    "Kill a training after some seconds, finish it, and compare"
    words,out = TRAININGS[name],folder/'killed'
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(folder/'cache', ignore_errors=True)
    process = start(words, out, folder/'cache')
    time.sleep(moment)
    process.kill()
    process.wait()
    logged = len(re.findall(r'INFO epoch \d+ of', log_of(out)))
    row = dict(training=name, killed_after=round(moment, 2), phase=phase(out), epochs_logged=logged,
        epochs_saved=logged if (out/'recipe.json').exists() else saved_epochs(out))
    row['restarts'] = finish(words, out, folder/'cache')
    row['same'] = outcome(out)==expected
    row['lost_epochs'] = max(0, logged-row['epochs_saved'])
    return row

def run(kills, path, seed=0, names=('frozen','fine-tuned')):
    "Rows of kills, spread over the whole time of a training"
    rng,rows = random.Random(seed),[]
    with tempfile.TemporaryDirectory() as d:
        for name in names:
            words = TRAININGS[name]
            folder = Path(d)/name
            began = time.monotonic()
            process = start(words, folder/'straight', folder/'cache')
            if process.wait(): raise RuntimeError(process.stderr.read()[-500:])
            seconds = time.monotonic()-began
            expected = outcome(folder/'straight')
            n = kills//len(names)
            for i in range(n):
                moment = seconds*(.1+.9*(i+rng.random())/n)
                rows.append(one_kill(name, folder, moment, expected))
                print(rows[-1], flush=True)
                if path: pd.DataFrame(rows).to_csv(path, index=False)
    return pd.DataFrame(rows)

if __name__=='__main__':
    table = run(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
    print(f'{int(table.same.sum())} of {len(table)} as never stopped; most epochs lost {table.lost_epochs.max()}')
