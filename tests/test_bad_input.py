"Whatever a user can get wrong ends in one line, exit code 1, and everything that was there still there"
import subprocess, sys

import pytest
from PIL import Image

from garbage_clf.cli import main
from garbage_clf.data.sample import sample_items

FAST = '--recipe efficientnet-lite0-frozen --size 64 --epochs 1 --device cpu'.split()


@pytest.fixture
def photos(tmp_path):
    "Two classes of six photos each"
    for c,shade in (('glass',20),('metal',140)):
        (tmp_path/'photos'/c).mkdir(parents=True)
        for i in range(6): Image.new('RGB', (40,30), (shade,90+9*i,shade)).save(tmp_path/'photos'/c/f'{i}.jpg')
    return tmp_path/'photos'

def fails(capsys, says, *words, code=1):
    "The command fails with one line that says so"
    assert main([str(w) for w in words])==code
    err = [l for l in capsys.readouterr().err.splitlines() if l.startswith('error:')]
    assert len(err)==1 and says in err[0], err


def test_good_photos_train(photos, tmp_path, capsys):
    assert main(['train', str(photos), *FAST, '--out', str(tmp_path/'run')])==0
    wanted = 'confusion_matrix.csv evaluation_results.csv items.csv labels.json last log.txt metrics.json model.safetensors recipe.json report.html report.ipynb training_stats.csv'
    assert set(wanted.split()) <= {p.name for p in (tmp_path/'run').iterdir()}
    assert {p.name for p in (tmp_path/'run'/'plots').iterdir()}=={'confusion_matrix.png','learning_curves.png','worst_mistakes.png'}

def test_missing_folder(tmp_path, capsys): fails(capsys, 'no data at', 'train', tmp_path/'nowhere')

def test_empty_folder(tmp_path, capsys): fails(capsys, 'one folder for each class', 'train', tmp_path)

def test_one_class(photos, tmp_path, capsys):
    (photos/'metal').rename(tmp_path/'away')
    fails(capsys, 'only one class (glass)', 'train', photos, *FAST, '--out', tmp_path/'run')

def test_class_with_one_photo(photos, tmp_path, capsys):
    for p in list((photos/'metal').iterdir())[1:]: p.unlink()
    fails(capsys, "class 'metal' has 1 item", 'train', photos, *FAST, '--out', tmp_path/'run')

@pytest.mark.parametrize('content', [b'', b'not a photo', b'\xff\xd8\xff\xe0\x00\x10JFIF'], ids=['empty','text','header only'])
def test_unreadable_photo(photos, tmp_path, capsys, content):
    (photos/'metal'/'bad.jpg').write_bytes(content)
    fails(capsys, '1 of 13 photos cannot be read', 'train', photos, *FAST, '--out', tmp_path/'run')
    assert 'bad.jpg' in (tmp_path/'run'/'log.txt').read_text()
    (photos/'metal'/'bad.jpg').unlink()
    assert main(['train', str(photos), *FAST, '--out', str(tmp_path/'run')])==0, 'the same folder can be used after mending'

def test_truncated_photo(photos, tmp_path, capsys):
    whole = open(sample_items().image[0], 'rb').read()
    (photos/'metal'/'half.jpg').write_bytes(whole[:len(whole)//2])
    fails(capsys, 'half.jpg', 'train', photos, *FAST, '--out', tmp_path/'run')

def test_copies_of_one_photo(photos, tmp_path, capsys):
    for p in list((photos/'metal').iterdir())[1:]: p.write_bytes((photos/'metal'/'0.jpg').read_bytes())
    fails(capsys, "class 'metal' has 1 item (those with the same photo or words count once)", 'train', photos, *FAST, '--out', tmp_path/'run')

def test_copies_do_not_straddle(photos, tmp_path, capsys):
    import pandas as pd
    for p in list(photos.glob('*/*.jpg')): (p.parent/f'copy_{p.name}').write_bytes(p.read_bytes())
    assert main(['train', str(photos), *FAST, '--out', str(tmp_path/'run')])==0
    items = pd.read_csv(tmp_path/'run'/'items.csv')
    assert items.group.notna().all() and items.groupby('group').split.nunique().max()==1

@pytest.mark.parametrize('name', ['NA','None','nan'])
def test_class_called_na(photos, tmp_path, capsys, name):
    (photos/'metal').rename(photos/name)
    assert main(['train', str(photos), *FAST, '--out', str(tmp_path/'run')])==0
    assert main(['evaluate', str(tmp_path/'run')])==0
    assert name in capsys.readouterr().out

def test_own_classes_have_no_bin(photos, tmp_path, capsys):
    (photos/'metal').rename(photos/'peel')
    assert main(['train', str(photos), *FAST, '--out', str(tmp_path/'run')])==0
    capsys.readouterr()
    assert main(['predict', str(tmp_path/'run'), str(photos/'peel'), '--json'])==0
    got = capsys.readouterr()
    assert 'no bin for peel: pass --rules' in got.err and len(got.out.splitlines())==6
    (tmp_path/'town.yaml').write_text('bins: {A: x}\nrules: {glass: A}')
    fails(capsys, "do not know 'peel'", 'predict', tmp_path/'run', photos, '--rules', tmp_path/'town.yaml')

def test_run_among_the_photos(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    fails(capsys, 'would lie among the photos', 'train', '.', *FAST)
    assert not (photos/'runs').exists()

def test_damaged_run(photos, tmp_path, capsys):
    assert main(['train', str(photos), *FAST, '--out', str(tmp_path/'run')])==0
    (tmp_path/'run'/'labels.json').write_text('{"classes": [')
    fails(capsys, 'cannot read', 'predict', tmp_path/'run', photos)

def test_damaged_state(photos, tmp_path, capsys):
    assert main(['train', str(photos), *FAST, '--out', str(tmp_path/'run')])==0
    state = tmp_path/'run'/'last'/'state.safetensors'
    state.write_bytes(state.read_bytes()[:1000])
    (tmp_path/'run'/'recipe.json').unlink()
    fails(capsys, 'is damaged', 'train', photos, *FAST, '--out', tmp_path/'run', '--resume')

def test_csv_without_column(tmp_path, capsys):
    (tmp_path/'a.csv').write_text('what,label\nx.jpg,glass\n')
    fails(capsys, 'has no column for photos or texts; it has what, label', 'train', tmp_path/'a.csv')

def test_csv_names_missing_photo(tmp_path, capsys):
    (tmp_path/'a.csv').write_text('image,label\n'+''.join(f'x{i}.jpg,{l}\n' for i in range(4) for l in 'ab'))
    fails(capsys, '8 of 8 photos cannot be read: no photo at', 'train', tmp_path/'a.csv', *FAST, '--out', tmp_path/'run')

def test_unknown_recipe_device_split(photos, tmp_path, capsys):
    fails(capsys, "did you mean 'mobilenet-frozen'", 'train', photos, '--recipe', 'mobilenet-frozn')
    fails(capsys, "device 'tpu' is not here", 'train', photos, '--device', 'tpu', '--out', tmp_path/'run')
    (tmp_path/'a.csv').write_text('image,label,split\nx.jpg,a,dev\n')
    fails(capsys, "split 'dev' is not known", 'train', tmp_path/'a.csv')

def test_existing_run_is_untouched(photos, tmp_path, capsys):
    assert main(['train', str(photos), *FAST, '--out', str(tmp_path/'run')])==0
    before = {p: p.read_bytes() for p in (tmp_path/'run').rglob('*') if p.is_file()}
    fails(capsys, 'already holds a run', 'train', photos, *FAST, '--out', tmp_path/'run')
    assert before=={p: p.read_bytes() for p in (tmp_path/'run').rglob('*') if p.is_file()}

@pytest.mark.parametrize('words', [['train'], ['fly'], ['train','x','--epochs','many'], ['predict']])
def test_wrong_usage_is_2(words, capsys):
    try: code = main(words)
    except SystemExit as e: code = e.code
    assert code==2

FULL = '''
import resource, sys
from garbage_clf.cli import main
import shutil, collections
if sys.argv[1]=='nearly': shutil.disk_usage = lambda p: collections.namedtuple('u', 'total used free')(10**9, 10**9, 3_000_000)
else: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
sys.exit(main(sys.argv[2:]))
'''

@pytest.mark.parametrize('how,says', [('nearly','only 3 MB are free'), ('suddenly','cannot write')])
def test_full_disk(photos, tmp_path, how, says):
    "Found before training if the disk is nearly full; in one line if it fills up meanwhile (here: no file may pass 2 MB)"
    run = subprocess.run([sys.executable, '-c', FULL, how, 'train', str(photos), *FAST, '--out', str(tmp_path/'run')], capture_output=True, text=True)
    errors = [l for l in run.stderr.splitlines() if l.startswith('error:')]
    assert run.returncode==1 and len(errors)==1 and says in errors[0], run.stderr[-2000:]
    assert not (tmp_path/'run'/'recipe.json').exists() and not (tmp_path/'run'/'model.safetensors').exists()
    assert {p.name for p in (tmp_path/'run').glob('.*')} <= {'.lock'}, 'no debris'

def test_read_only_output(photos, tmp_path, capsys):
    (tmp_path/'file').write_text('mine')
    fails(capsys, 'is a file', 'train', photos, *FAST, '--out', tmp_path/'file')
    fails(capsys, 'cannot make the folder', 'train', photos, *FAST, '--out', tmp_path/'file'/'run')
    assert (tmp_path/'file').read_text()=='mine'
