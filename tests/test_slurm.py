"Trainings that are stopped by signals, and a real Slurm that preempts them"
import json, os, re, signal, subprocess, sys, time
from pathlib import Path

import pytest

from garbage_clf.data.sample import sample_items

sys.path.insert(0, str(Path(__file__).parent))
from private_slurm import missing, private_slurm, slurm, wait_for

TRAIN = 'train items.csv --recipe mobilenet --pretrained false --size 32 --epochs 10 --device cpu'.split()

def write_items(folder):
    "A few items of the sample, for short epochs"
    sample_items().groupby(['label','split']).head(8).to_csv(folder/'items.csv', index=False)


# Without Slurm

def start(folder, *words):
    "A training as a process of its own"
    command = [sys.executable,'-m','garbage_clf.cli',*TRAIN,*words]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

def stop_when(p, ready, number):
    "Signal a training as soon as something is there; its exit code, and its log"
    wait_for(ready, 'a training that does not start', 60)
    p.send_signal(number)
    rest = p.communicate(timeout=60)[1]
    return p.returncode,rest

def test_sigterm_leaves_with_75_and_the_training_goes_on(tmp_path):
    write_items(tmp_path)
    run = tmp_path/'run'
    code,log = stop_when(start(tmp_path, '--out', 'run'), (run/'last'/'state.safetensors').exists, signal.SIGTERM)
    assert code==75 and log.splitlines()[-1]=='stopped by SIGTERM: go on with the same command, --out run and --resume'
    assert not (run/'recipe.json').exists()
    again = start(tmp_path, '--out', 'run', '--resume')
    assert any('going on after epoch' in line for line in again.stderr)
    again.kill()
    again.communicate()

@pytest.mark.skipif(not hasattr(signal, 'SIGUSR1'), reason='no SIGUSR1 on this system')
def test_sigusr1_before_the_first_epoch_leaves_a_folder_that_can_be_used(tmp_path):
    write_items(tmp_path)
    code,log = stop_when(start(tmp_path, '--out', 'run'), (tmp_path/'run'/'log.txt').exists, signal.SIGUSR1)
    assert code==75 and 'stopped by SIGUSR1: no epoch was finished, so start again with the same command and --out run' in log
    from garbage_clf.train.run_folder import new_folder
    assert new_folder(tmp_path/'run').is_dir()

def test_a_job_does_what_is_left_to_do(tmp_path, monkeypatch):
    from garbage_clf.commands import train as module
    calls = []
    monkeypatch.setattr(module, 'train', lambda words: calls.append(words))
    out = tmp_path/'run'
    module.train_job(['sample'], str(out))
    (out/'last').mkdir(parents=True)
    (out/'last'/'state.safetensors').touch()
    module.train_job(['sample'], str(out))
    for name in ('recipe.json','report.html'): (out/name).touch()
    module.train_job(['sample'], str(out))
    assert calls==[['sample','--out',str(out)], ['sample','--out',str(out),'--resume']]

def test_only_a_running_job_goes_back(tmp_path, monkeypatch):
    "A cancelled job that requeued itself could not be stopped by anybody"
    from garbage_clf.train.slurm import requeue
    for name,does in dict(squeue='cat state', scontrol='echo "$@" >> asked').items():
        (tmp_path/name).write_text(f'#!/bin/sh\n{does}\n')
        (tmp_path/name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    def asked(state, **env):
        (tmp_path/'state').write_text(state)
        for name,value in env.items(): monkeypatch.setenv(name, value)
        return requeue()
    assert not asked('COMPLETING') and not asked('') and not (tmp_path/'asked').exists()
    assert asked('RUNNING') and (tmp_path/'asked').read_text()=='requeue 7\n'
    assert not asked('RUNNING', SLURM_RESTART_COUNT='20')
    assert not asked('RUNNING', SLURM_RESTART_COUNT='1', SLURM_PROCID='1')
    assert asked('RUNNING', SLURM_PROCID='0', SLURM_ARRAY_JOB_ID='5', SLURM_ARRAY_TASK_ID='3')
    assert (tmp_path/'asked').read_text()=='requeue 7\nrequeue 5_3\n'


# With a real Slurm

@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    gone = missing()
    if gone: pytest.skip(f'Slurm is not installed here (no {", ".join(gone)}): apt install slurm-wlm munge')
    pytest.importorskip('submitit', reason='submitit is not installed: pip install garbage_clf[cluster]')
    with private_slurm(tmp_path_factory.mktemp('slurm')) as env: yield env

@pytest.fixture
def login(cluster, tmp_path, monkeypatch):
    "A folder on the login node"
    bin_path = Path(sys.executable).parent # Of garbage-clf
    for name,value in dict(cluster, PATH=f'{bin_path}:{cluster["PATH"]}').items(): monkeypatch.setenv(name, value)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.chdir(tmp_path)
    write_items(tmp_path)
    return tmp_path

def ask(*words): return slurm(*words, env=dict(os.environ))

def cli(*words):
    "A command of ours, which has to succeed"
    p = subprocess.run([sys.executable,'-m','garbage_clf.cli',*map(str, words)], capture_output=True, text=True)
    assert p.returncode==0, p.stderr
    return p.stdout

def restarted(job):
    "Wait until a job is back in the queue, and let it start at once and not in two minutes"
    def pending(): return ask('squeue', '-h', '-o', '%T', f'--jobs={job}').strip()=='PENDING'
    wait_for(pending, f'{job} does not come back')
    time.sleep(1.5) # Within the same second Slurm would refuse it: "Job credential revoked"
    ask('scontrol', 'update', f'JobId={job}', 'StartTime=now')

def logs(): return '\n'.join(p.read_text(errors='replace')[-1500:] for p in Path('logs').glob('*_*'))

def has_state(run): return (Path(run)/'last'/'state.safetensors').exists()

def test_script_is_warned_comes_back_and_goes_on(login):
    cli('slurm-script', *TRAIN[1:], '--seeds', 2, '--out', 'runs', '--script', 'train.sbatch', '--slurm', 'partition=short,time=30')
    array = ask('sbatch', '--parsable', 'train.sbatch').strip()
    runs = [Path('runs')/f'mobilenet-seed-{seed}' for seed in (1,2)]
    wait_for(lambda: has_state(runs[0]), logs, 60)
    ask('scancel', '--signal=USR1', f'{array}_0')
    restarted(f'{array}_0')
    table = cli('jobs', 'logs')
    assert re.search(rf'{array}_0 +(PENDING|RUNNING|CONFIGURING) +{runs[0]} ', table), table
    wait_for(lambda: all((r/'report.html').exists() for r in runs), logs, 90)
    log = Path(f'logs/error_{array}_0.log').read_text()
    print(log)
    for line in ('stopped by SIGUSR1: go on with the same command', f'job {array}_0 goes back into the queue', 'going on after epoch'):
        assert line in log
    assert 'going on' not in Path(f'logs/error_{array}_1.log').read_text()
    from garbage_clf.train.job_table import job_table
    wait_for(lambda: set(job_table('logs').state)=={'COMPLETED'}, logs)
    table = job_table('logs')
    print(table.to_string())
    assert table.run.tolist()==[str(r) for r in runs] and table.epochs.tolist()==['10 of 10']*2
    for row in table.itertuples():
        metrics = json.loads((Path(row.run)/'metrics.json').read_text())['test']
        assert (row.accuracy,row.low,row.high,row.n)==(metrics['accuracy'],*metrics['accuracy_ci'],metrics['n'])

def test_submitted_training_is_requeued_and_goes_on(login):
    said = cli(*TRAIN, '--out', 'my run', '--slurm', 'partition=short,time=30')
    job = re.search(r'job +(\d+)', said)[1]
    wait_for(lambda: has_state('my run'), logs, 60)
    ask('scontrol', 'requeue', job) # As an administrator does it
    restarted(job)
    wait_for(lambda: Path(f'logs/{job}_0_result.pkl').exists(), logs, 90)
    log = Path(f'logs/{job}_0_log.err').read_text()
    print(log)
    assert 'stopped by SIGTERM' in log and 'going on after epoch' in log
    assert (Path('my run')/'report.html').exists()

def test_script_numbers_the_processes_of_a_distributed_training(login, monkeypatch):
    stub = login/'bin'/'garbage-clf'
    cli('slurm-script', *TRAIN[1:], '--out', 'run', '--script', 'train.sbatch', '--slurm', 'ntasks-per-node=2,time=30')
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\necho rank $RANK local $LOCAL_RANK of $WORLD_SIZE at $MASTER_ADDR: "$@"\n')
    stub.chmod(0o755)
    monkeypatch.setenv('PATH', f'{stub.parent}:{os.environ["PATH"]}')
    job = ask('sbatch', '--parsable', 'train.sbatch').strip()
    output = Path(f'logs/output_{job}.log')
    wait_for(lambda: output.exists() and output.read_text().count('rank')==2, logs)
    said = sorted(output.read_text().splitlines())
    assert [line.split(' at ')[0] for line in said]==['rank 0 local 0 of 2','rank 1 local 1 of 2']
    assert all('train items.csv --recipe mobilenet ' in line and line.endswith(' --out run') for line in said)

WORK = '''
import os, time
from pathlib import Path

def square(x):
    "Waits for a signal the first time"
    seen = Path(f'seen{x}')
    first = not seen.exists()
    seen.touch()
    if first and x<3: time.sleep(60)
    return x*x, int(os.environ.get('SLURM_RESTART_COUNT', 0))

def broken(): raise ValueError('no such luck')

def rank(): return os.environ['RANK'], os.environ['WORLD_SIZE']
'''

def test_functions_are_preempted_and_give_their_results(login, monkeypatch):
    Path('work.py').write_text(WORK)
    monkeypatch.setenv('PYTHONPATH', f'{login}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    monkeypatch.syspath_prepend(str(login))
    import work
    from garbage_clf.core import WorkbookError
    from garbage_clf.train.slurm import slurm_executor
    executor = slurm_executor('partition=short,time=30', 'jobs')
    with executor.batch(): jobs = [executor.submit(work.square, x) for x in (1,2,3)]
    wait_for(lambda: Path('seen1').exists() and Path('seen2').exists(), 'jobs that do not start')
    ask('scancel', '--signal=USR1', jobs[0].id) # It goes back by itself, and Slurm sends the other one back
    wait_for(lambda: jobs[0].state=='PENDING', 'a job that does not go back')
    urgent = slurm_executor('partition=urgent,time=30,ntasks-per-node=2', 'jobs').submit(work.rank) # Needs the whole node
    assert urgent.result(every=.2)==('0','2')
    for job in jobs[:2]: restarted(job.id)
    squares,restarts = zip(*[job.result(every=.2) for job in jobs])
    assert squares==(1,4,9) and restarts[:2]==(1,1) # The third may have begun in between
    with pytest.raises(WorkbookError, match='failed: ValueError: no such luck'): executor.submit(work.broken).result(every=.2)
    with pytest.raises(WorkbookError, match='does not take the job: invalid partition specified: nowhere'):
        slurm_executor('partition=nowhere', 'jobs').submit(work.rank)
    Path('seen2').unlink()
    cancelled = executor.submit(work.square, 2)
    wait_for(Path('seen2').exists, 'a job that does not start')
    cancelled.cancel()
    with pytest.raises(WorkbookError, match='ended as CANCELLED'): cancelled.result(every=.2)
