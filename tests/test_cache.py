"A first training that is killed while it decodes photos does no harm to the next"
import json, os, signal, subprocess, sys, time

import numpy as np

from garbage_clf.data.images import load_pixels
from garbage_clf.data.pixels import photo_pixels
from garbage_clf.data.sample import sample_items

CODE = '''
import sys
from garbage_clf.data import pixels
pixels.BLOCK = 16 # Small blocks, to be killed between them
from garbage_clf.data.tables import from_table
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.fit import fit
recipe = get_recipe('cnn-3', size=96, epochs=1, batch_size=32)
fit(from_table(sys.argv[1]), recipe, sys.argv[2], device='cpu')
'''


def start(folder, out, cache):
    "A training in another process, with its own cache"
    command = [sys.executable, '-c', CODE, str(folder/'items.csv'), str(folder/out)]
    env = dict(os.environ, GARBAGE_CLF_CACHE=str(folder/cache))
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def metrics(folder, out):
    "What a training measured, without the time that it took"
    found = json.loads((folder/out/'metrics.json').read_text())
    return {k: v for k,v in found.items() if k!='seconds'}


def test_kill_9_while_decoding(tmp_path, monkeypatch):
    items = sample_items()[:240]
    items.to_csv(tmp_path/'items.csv', index=False)
    p = start(tmp_path, 'killed', 'cache')
    store = tmp_path/'cache'/'garbage_clf-cache'/'rows-2'/'pixels-96-2'
    while p.poll() is None and not any(f.stat().st_size for f in store.glob('*')): time.sleep(.005)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not (tmp_path/'killed'/'recipe.json').exists()
    for out,cache in (('after','cache'),('fresh','other')):
        p = start(tmp_path, out, cache)
        err = p.communicate()[1]
        assert p.returncode==0, err[-2000:]
    assert metrics(tmp_path, 'after')==metrics(tmp_path, 'fresh')
    monkeypatch.setenv('GARBAGE_CLF_CACHE', str(tmp_path/'cache'))
    x,_ = photo_pixels(items.image, 96)
    assert np.array_equal(x[:].numpy(), load_pixels(items.image, 96)[0].numpy())
