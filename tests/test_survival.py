"Nothing is lost but the unfinished epoch: kills, full disks, folders that cannot be written, a cache that rots, a clock set back"
import errno, os, shutil, subprocess, sys, time
from pathlib import Path

import pytest

from garbage_clf import core
from garbage_clf.cache import cache_dir
from garbage_clf.core import WorkbookError
from garbage_clf.data.sample import sample_items
from garbage_clf.train.fit import fit, resume_fit
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.signals import run_state
from survival import outcome, run

BOW = get_recipe('bow', epochs=3)


@pytest.fixture(scope='module')
def items(): return sample_items()[:200]

@pytest.fixture(scope='module')
def straight(items, tmp_path_factory):
    return outcome(fit(items, BOW, tmp_path_factory.mktemp('s')/'run', 'cpu').path)

def go_on(items, out):
    "Resume a training, or begin it where no epoch was saved"
    if run_state(out)=='finished': return out
    if run_state(out)=='cut off': return resume_fit(items, BOW, out, 'cpu').path
    return fit(items, BOW, out, 'cpu').path

def fail_at(monkeypatch, k, error):
    "Let the k-th file that is moved to its place fail"
    calls,put = [],core._put
    def broken(tmp, path, new):
        calls.append(path)
        if len(calls)==k: raise error
        return put(tmp, path, new)
    monkeypatch.setattr(core, '_put', broken)
    return calls


def test_disk_full_at_each_writing_step(items, straight, tmp_path, monkeypatch):
    "Each write of a training fails once; what was there goes on to the same end, or says what is in the way"
    n_failed = 0
    for k in range(1, 40):
        out = tmp_path/f'{k}'
        with monkeypatch.context() as m:
            calls = fail_at(m, k, OSError(errno.ENOSPC, 'No space left on device'))
            try: fit(items, BOW, out, 'cpu')
            except WorkbookError as e: assert 'No space left on device' in str(e) and '\n' not in str(e)
        if len(calls)<k: break
        n_failed += 1
        assert not list(out.rglob('*.tmp-*')), 'no half-written file stays'
        assert outcome(go_on(items, out))==straight, calls[-1]
    assert n_failed>=12

@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid()!=0, reason='only root can mount a small disk')
def test_a_disk_that_is_really_full(items, straight, tmp_path):
    small = tmp_path/'small'
    small.mkdir()
    if subprocess.run(['mount','-t','tmpfs','-o','size=70m','tmpfs',small], capture_output=True).returncode:
        pytest.skip('no disk can be mounted here')
    try:
        (small/'ballast').write_bytes(bytes(66<<20))
        with pytest.raises(WorkbookError, match='only . MB are free'): fit(items, BOW, small/'run', 'cpu')
        (small/'ballast').unlink()
        assert outcome(go_on(items, small/'run'))==straight
    finally: subprocess.run(['umount','-l',small])

def test_killed_at_random_moments():
    table = run(2, None, seed=1, names=['words'])
    assert table.same.all() and not table.lost_epochs.any(), table

def test_last_goes_when_the_run_is_finished(items, tmp_path):
    assert not (fit(items, BOW, tmp_path/'run', 'cpu').path/'last').exists()

def test_clock_set_back(items, straight, tmp_path, monkeypatch):
    "A clock that goes backwards: the same result, and no negative seconds"
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, 'time', lambda: float(next(clock)))
    finished = fit(items, BOW, tmp_path/'run', 'cpu')
    assert outcome(finished.path)==straight
    assert finished.stats.seconds.ge(0).all() and all(s>=0 for s in finished.metrics['seconds'].values())

def test_cache_rots(tmp_path, monkeypatch):
    "Any byte of any file of the cache may change: the same features, made anew where they must be"
    monkeypatch.setenv('GARBAGE_CLF_CACHE', str(tmp_path/'cache'))
    items = sample_items().groupby(['label','split']).head(4).reset_index(drop=True)
    recipe = get_recipe('efficientnet-lite0-frozen', size=64, epochs=2)
    expected = outcome(fit(items, recipe, tmp_path/'expected', 'cpu').path)
    files = [p for p in cache_dir().rglob('*') if p.is_file() and p.suffix in ('.bin','.sqlite','.json')]
    assert len(files)>=5
    for i,path in enumerate(sorted(files)):
        content = bytearray(path.read_bytes())
        for at in (len(content)//3,2*len(content)//3): content[at] ^= 255
        path.write_bytes(content)
    assert outcome(fit(items, recipe, tmp_path/'rotten', 'cpu').path)==expected
    for path in files:
        if path.exists(): path.write_bytes(path.read_bytes()[:len(path.read_bytes())//2])
    assert outcome(fit(items, recipe, tmp_path/'cut', 'cpu').path)==expected
    for folder in cache_dir().glob('rows-*'): shutil.rmtree(folder)
    assert outcome(fit(items, recipe, tmp_path/'none', 'cpu').path)==expected
