"A first training that is killed while it decodes photos does no harm to the next"
import json, os, signal, subprocess, sys, time

import numpy as np

from garbage_clf.data.images import load_pixels
from garbage_clf.data.pixels import photo_pixels
from garbage_clf.data.sample import sample_items

CODE = '''
import sys
from garbage_clf.data import pixels
pixels._decoder.__defaults__ = (16,) # Small blocks, to be killed between them
from garbage_clf.data.tables import from_table
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.fit import fit
fit(from_table(sys.argv[1]), get_recipe('cnn-3', size=96, epochs=1, batch_size=32), sys.argv[2], device='cpu')
'''


def test_kill_9_while_decoding(tmp_path, monkeypatch):
    items = sample_items()[:240]
    items.to_csv(tmp_path/'items.csv', index=False)
    start = lambda out, cache: subprocess.Popen([sys.executable, '-c', CODE, str(tmp_path/'items.csv'), str(tmp_path/out)], env=dict(os.environ, GARBAGE_CLF_CACHE=str(tmp_path/cache)),
        stderr=subprocess.PIPE, text=True)
    p = start('killed', 'cache')
    index = tmp_path/'cache'/'rows-1'/'pixels-96'
    while p.poll() is None and not any(f.stat().st_size for f in index.glob('*')): time.sleep(.005)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not (tmp_path/'killed'/'recipe.json').exists()
    for out,cache in (('after','cache'),('fresh','other')):
        p = start(out, cache)
        err = p.communicate()[1]
        assert p.returncode==0, err[-2000:]
    metrics = [json.loads((tmp_path/out/'metrics.json').read_text()) for out in ('after','fresh')]
    assert [{k:v for k,v in m.items() if k!='seconds'} for m in metrics][0]=={k:v for k,v in metrics[1].items() if k!='seconds'}
    monkeypatch.setenv('GARBAGE_CLF_CACHE', str(tmp_path/'cache'))
    x,_ = photo_pixels(items.image, 96)
    assert np.array_equal(x[:].numpy(), load_pixels(items.image, 96)[0].numpy())
