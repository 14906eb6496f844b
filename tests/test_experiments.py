"Sweeps and searches that are killed go on, a killed worker costs one job, and text from files stays text"
import os, re, signal, subprocess, sys, time
from concurrent.futures import Future
from dataclasses import replace

import pytest

from garbage_clf.analysis.experiment import open_experiment
from garbage_clf.analysis.leaderboard import leaderboard_page
from garbage_clf.analysis.search_space import parse_search, search_space
from garbage_clf.analysis.sweep import run_label, sweep, sweep_jobs, sweep_recipes
from garbage_clf.core import WorkbookError
from garbage_clf.data.read import read_items
from garbage_clf.data.sample import sample_items
from garbage_clf.train.fan_out import fan_out, local_executor
from garbage_clf.train.fit import fit
from garbage_clf.train.recipe_change import save_recipe
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.run import Run

JOBS = '''
import os, pathlib, signal, time
def work(folder, n):
    tried = pathlib.Path(folder)/f'tried-{n}'
    if n=='always' or n=='once' and not tried.exists():
        tried.write_text('')
        os.kill(os.getpid(), signal.SIGKILL)
    if n=='raises': raise RuntimeError('no\\nluck')
    return n
def wait(): time.sleep(60)
'''


class Inline:
    "An executor that runs each job when it is submitted"
    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future

@pytest.fixture
def jobs(tmp_path, monkeypatch):
    "The folder of a module whose functions workers can import"
    (tmp_path/'experiment_jobs.py').write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    import experiment_jobs
    return experiment_jobs


# Workers

def test_a_killed_worker_costs_one_job(jobs, tmp_path):
    names = ['a','once','always','raises','b','c']
    calls = {n: (str(tmp_path),n) for n in names}
    with local_executor(2, imports=()) as executor: results,errors = fan_out(jobs.work, calls, executor)
    assert list(results)==['a','once','b','c']
    assert 'killed twice' in errors['always'] and errors['raises']=='RuntimeError: no luck'

def is_running(pid):
    try: return open(f'/proc/{pid}/stat').read().split(')')[-1].split()[0] not in 'ZX'
    except OSError: return False

@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='looks at /proc')
def test_workers_end_with_a_killed_parent(jobs, tmp_path):
    code = '''if __name__=='__main__':
    import os, sys
    import experiment_jobs
    from garbage_clf.train.fan_out import local_executor
    executor = local_executor(2, imports=())
    print(*[w.run(os.getpid) for w in executor.workers], flush=True)
    for _ in range(4): executor.submit(experiment_jobs.wait)
    sys.stdin.read()'''
    (tmp_path/'parent.py').write_text(code)
    parent = subprocess.Popen([sys.executable, tmp_path/'parent.py'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pids = [int(p) for p in parent.stdout.readline().split()]
    assert len(pids)==2 and all(is_running(p) for p in pids)
    parent.kill()
    parent.wait()
    end = time.monotonic()+20
    while any(is_running(p) for p in pids) and time.monotonic()<end: time.sleep(.1)
    assert not any(is_running(p) for p in pids)


# Going on

def run_command(folder, *words):
    return subprocess.Popen([sys.executable, '-m', 'garbage_clf.cli', *words], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)

def kill_after(process, pattern):
    for line in process.stderr:
        if re.search(pattern, line): break
    else: raise AssertionError(f'it ended before {pattern}')
    process.send_signal(signal.SIGKILL)
    process.wait()

def test_a_killed_sweep_goes_on(tmp_path):
    words = 'sweep sample --recipes bow --seeds 3 --epochs 3 --workers 1 --device cpu --out sweep'.split()
    kill_after(run_command(tmp_path, *words), '1 of 3')
    out = tmp_path/'sweep'
    done = {p.parent: p.stat().st_mtime_ns for p in out.glob('*/recipe.json')}
    assert 1<=len(done)<3
    (out/'bow-seed-3').mkdir(exist_ok=True)
    (out/'bow-seed-3'/'items.csv').write_text('half a file')
    jobs = sweep_jobs(sweep_recipes(['bow'], epochs=3), seeds=3)
    rows,errors = sweep(read_items('sample'), jobs, out, Inline(), 'cpu')
    assert list(rows)==list(jobs) and not errors
    for folder,changed in done.items(): assert (folder/'recipe.json').stat().st_mtime_ns==changed

SEARCH = '''
import logging, sys
logging.basicConfig(level=logging.INFO, format='%(message)s')
sys.path.insert(0, sys.argv[1])
from test_experiments import Inline, small_search
from garbage_clf.analysis.tune import tune
from garbage_clf.data.read import read_items
from garbage_clf.data.sample import sample_items
tune(sample_items()[:160], small_search(sys.argv[2]), Inline(), n=40)
'''

def small_search(folder):
    from pathlib import Path
    from garbage_clf.analysis.study import Search
    recipe = get_recipe('bow', epochs=2)
    return Search(Path(folder), recipe, tuple(search_space('lr=1e-4..1e-1,dropout=0..0.5', recipe)), device='cpu')

def test_a_killed_search_goes_on(tmp_path):
    from garbage_clf.analysis.study import finished_trials
    from garbage_clf.analysis.tune import tune
    here = os.path.dirname(__file__)
    p = subprocess.Popen([sys.executable, '-c', SEARCH, here, tmp_path/'search'], stderr=subprocess.PIPE, text=True)
    end = time.monotonic()+60
    while not list(tmp_path.glob('search/.trial-2')) and time.monotonic()<end: time.sleep(.01)
    p.kill()
    p.wait()
    study,errors = tune(sample_items()[:160], small_search(tmp_path/'search'), Inline(), n=5)
    states = [t.state.name for t in study.trials]
    assert not errors and len(finished_trials(study))==5 and 'RUNNING' not in states and states.count('FAIL')==1
    lost = study.trials[states.index('FAIL')]
    assert [t.params for t in study.trials if t.system_attrs.get('fixed_params')==lost.params]==[lost.params]
    assert not list(tmp_path.glob('search/.trial-*'))

def test_a_search_knows_nothing_of_test_labels(tmp_path):
    from garbage_clf.analysis.tune import tune, tuning_items
    items = sample_items()[:160]
    wrong = items.assign(label=items.label.where(items.split!='test', items.label.iloc[0]))
    values = []
    for name,data in dict(right=items, wrong=wrong).items():
        study,_ = tune(data, small_search(tmp_path/name), Inline(), n=2)
        values.append([t.value for t in study.trials])
        assert set(tuning_items(tmp_path/name, False).split)=={'train','valid'}
    assert (items.label!=wrong.label).any() and values[0]==values[1]

def test_an_experiment_stays_what_it_was(tmp_path):
    items,recipes = sample_items()[:160],dict(bow=get_recipe('bow'))
    open_experiment(tmp_path, items, recipes)
    relabelled = items.assign(label=items.label.where(items.index!=3, 'Blue' if items.label[3]!='Blue' else 'Green'))
    for other in (relabelled, items[:150]):
        with pytest.raises(WorkbookError, match='data have changed'): open_experiment(tmp_path, other, recipes)
    with pytest.raises(WorkbookError, match='another lr of bow'): open_experiment(tmp_path, items, dict(bow=get_recipe('bow', lr=.1)))
    for text in ('', '[]', '{"recipes": {"bow": 3}}', '{'):
        (tmp_path/'experiment.json').write_text(text)
        with pytest.raises(WorkbookError): open_experiment(tmp_path, items, recipes)


# Text from others

@pytest.mark.parametrize('text', ['lr=__import__("os")..1', 'lr=1e-3..1e999', 'lr=nan..nan', 'dropout=-1..0', 'hidden=1e3..2.5', 'size=32..1e9',
    'augment=none', 'loss=focal|<script>', 'x'*10_000, 'lr=1..2..3', 'optimizer=adam|adam', 'epochs=0..5', 'seed=1|2', '=', 'frozen=maybe|true'])
def test_hostile_search(text):
    with pytest.raises(WorkbookError) as e: parse_search(text, get_recipe('mobilenet'))
    assert '\n' not in str(e.value)

def test_names_of_runs_stay_in_the_folder(tmp_path):
    for name in ('../../etc/passwd', '..', '/abs/x.json', 'a b\nc', '<b>.json', 'ü'*300, '.hidden.json'):
        label = run_label(name)
        assert re.fullmatch(r'[A-Za-z0-9_-][A-Za-z0-9_.-]{0,59}', label), (name,label)
    path = tmp_path/'..tricky; rm -rf.json'
    save_recipe(get_recipe('bow'), path)
    assert list(sweep_jobs(sweep_recipes([str(path)]), seeds=1))==['tricky-rm--rf-seed-1']

def test_a_leaderboard_escapes(tmp_path):
    evil = '<script>alert(1)</script>'
    runs = []
    for i,name in enumerate((evil,'plain','field')):
        recipe = replace(get_recipe('text-tfidf', weight_decay=.1*(i+1)), name=name)
        runs.append(fit(sample_items(), recipe, tmp_path/f'<img src=x onerror=alert({i})>', 'cpu'))
    page = leaderboard_page(runs)
    assert evil not in page and '<img src=x' not in page and '&lt;script&gt;' in page
    assert page.count('<script>')==1 and not re.search(r'(src|href)="(?!data:)', page)
    assert Run(runs[0].path).recipe.name==evil and 'Pairs of the best' in page

def test_no_trial_is_taken_twice(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    from garbage_clf.analysis.study import open_study
    search = small_search(tmp_path)
    first = open_study(search)
    for i in range(12): first.enqueue_trial(dict(lr=.001*(i+1), dropout=.1))
    def ask(study): return [study.ask().number for _ in range(3)]
    with ThreadPoolExecutor(4) as threads: asked = list(threads.map(ask, [open_study(search) for _ in range(4)]))
    numbers = sorted(n for some in asked for n in some)
    assert numbers==list(range(12))
