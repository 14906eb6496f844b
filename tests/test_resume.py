"A training that is killed goes on where it stopped, and ends as if nothing had happened"
import csv, json, signal, subprocess, sys

from garbage_clf.data.sample import sample_items

CODE = '''
import logging, sys
logging.basicConfig(level=logging.INFO, format='%(message)s')
from garbage_clf.data.tables import from_table
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.fit import fit, resume_fit
recipe = get_recipe('mobilenet', pretrained=False, size=32, epochs=6, batch_size=32)
train = resume_fit if 'resume' in sys.argv else fit
train(from_table(sys.argv[1]), recipe, sys.argv[2], device='cpu')
'''


def start(*words): return subprocess.Popen([sys.executable, '-c', CODE, *map(str, words)], stderr=subprocess.PIPE, text=True)

def metrics(out):
    m = json.loads((out/'metrics.json').read_text())
    m.pop('seconds')
    return m

def test_kill_9_and_resume(tmp_path):
    data = tmp_path/'items.csv'
    sample_items()[:120].to_csv(data, index=False)
    killed = start(data, tmp_path/'killed')
    for line in killed.stderr:
        if line.startswith('epoch 3 of 6'): break
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (tmp_path/'killed'/'last'/'state.safetensors').exists() and not (tmp_path/'killed'/'recipe.json').exists()
    for words in ((tmp_path/'killed','resume'), (tmp_path/'straight',)):
        p = start(data, *words)
        err = p.communicate()[1]
        assert p.returncode==0 and ('going on after epoch' in err)==('resume' in words), err[-2000:]
    assert metrics(tmp_path/'killed')==metrics(tmp_path/'straight')
    with open(tmp_path/'killed'/'training_stats.csv') as f: epochs = sum(float(r['seconds']) for r in csv.DictReader(f))
    assert json.loads((tmp_path/'killed'/'metrics.json').read_text())['seconds']['fit']>=epochs-.01 # Also those before it was killed
    assert (tmp_path/'killed'/'model.safetensors').read_bytes()==(tmp_path/'straight'/'model.safetensors').read_bytes()
