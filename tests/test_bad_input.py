"Whatever a user can get wrong ends in one line, exit code 1, and everything that was there still there"
import subprocess, sys

import pandas as pd, pytest
from PIL import Image

from garbage_clf.cli import main
from garbage_clf.data.sample import sample_items

FAST = '--recipe efficientnet-lite0-frozen --size 64 --epochs 1 --device cpu'.split()
RUN_FILES = {
    'confusion_matrix.csv', 'evaluation_results.csv', 'items.csv', 'labels.json', 'log.txt',
    'metrics.json', 'model.safetensors', 'recipe.json', 'report.html', 'report.ipynb', 'training_stats.csv'}


@pytest.fixture
def photos(tmp_path):
    "Two classes of six photos each"
    for c,shade in (('glass',20),('metal',140)):
        folder = tmp_path/'photos'/c
        folder.mkdir(parents=True)
        for i in range(6):
            Image.new('RGB', (40,30), (shade,90+9*i,shade)).save(folder/f'{i}.jpg')
    return tmp_path/'photos'

@pytest.fixture
def out(tmp_path): return tmp_path/'run'

def run(*words): return main([str(w) for w in words])

def train(photos, out, *words):
    "Exit code of a short training"
    return run('train', photos, *FAST, '--out', out, *words)

def fails(capsys, message, *words, code=1):
    "The command fails with one line that contains the message"
    assert run(*words)==code
    errors = [l for l in capsys.readouterr().err.splitlines() if l.startswith('error:')]
    assert len(errors)==1 and message in errors[0], errors

def training_fails(capsys, message, photos, out, *words):
    fails(capsys, message, 'train', photos, *FAST, '--out', out, *words)

def files_of(folder): return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_good_photos_train(photos, out):
    assert train(photos, out)==0
    assert RUN_FILES <= {p.name for p in out.iterdir()}
    plots = {p.name for p in (out/'plots').iterdir()}
    assert plots=={'calibration.png','confusion_matrix.png','groups.png','learning_curves.png'}

def test_missing_folder(tmp_path, capsys): fails(capsys, 'no data at', 'train', tmp_path/'nowhere')

def test_empty_folder(tmp_path, capsys): fails(capsys, 'one folder for each class', 'train', tmp_path)

def test_one_class(photos, tmp_path, out, capsys):
    (photos/'metal').rename(tmp_path/'away')
    training_fails(capsys, 'only one class (glass)', photos, out)

def test_class_with_one_photo(photos, out, capsys):
    for p in list((photos/'metal').iterdir())[1:]: p.unlink()
    training_fails(capsys, "class 'metal' has 1 item", photos, out)

BAD_FILES = dict(empty=b'', text=b'not a photo', header=b'\xff\xd8\xff\xe0\x00\x10JFIF')

@pytest.mark.parametrize('kind', BAD_FILES)
def test_unreadable_photo(photos, out, capsys, kind):
    bad = photos/'metal'/'bad.jpg'
    bad.write_bytes(BAD_FILES[kind])
    training_fails(capsys, '1 of 13 photos cannot be read', photos, out)
    assert 'bad.jpg' in (out/'log.txt').read_text()
    bad.unlink()
    assert train(photos, out)==0, 'the same folder can be used after mending'

def test_truncated_photo(photos, out, capsys):
    with open(sample_items().image[0], 'rb') as f: whole = f.read()
    (photos/'metal'/'half.jpg').write_bytes(whole[:len(whole)//2])
    training_fails(capsys, 'half.jpg', photos, out)

def test_copies_of_one_photo(photos, out, capsys):
    first = (photos/'metal'/'0.jpg').read_bytes()
    for p in (photos/'metal').iterdir(): p.write_bytes(first)
    message = "class 'metal' has 1 item (those of one group count once)"
    training_fails(capsys, message, photos, out)

def test_copies_do_not_straddle(photos, out):
    for p in list(photos.glob('*/*.jpg')): (p.parent/f'copy_{p.name}').write_bytes(p.read_bytes())
    assert train(photos, out)==0
    items = pd.read_csv(out/'items.csv')
    assert items.group.notna().all()
    assert items.groupby('group').split.nunique().max()==1

@pytest.mark.parametrize('name', ['NA','None','nan'])
def test_class_called_na(photos, out, capsys, name):
    (photos/'metal').rename(photos/name)
    assert train(photos, out)==0
    assert run('evaluate', out)==0
    assert name in capsys.readouterr().out

def test_own_classes_have_no_bin(photos, tmp_path, out, capsys):
    (photos/'metal').rename(photos/'peel')
    assert train(photos, out)==0
    capsys.readouterr()
    assert run('predict', out, photos/'peel', '--json')==0
    got = capsys.readouterr()
    assert 'no bin for peel: pass --rules' in got.err
    assert len(got.out.splitlines())==6
    rules = tmp_path/'town.yaml'
    rules.write_text('bins: {A: x}\nrules: {glass: A}')
    fails(capsys, "do not know 'peel'", 'predict', out, photos, '--rules', rules)

def test_run_among_the_photos(photos, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    fails(capsys, 'would lie among the photos', 'train', '.', *FAST)
    assert not (photos/'runs').exists()

def test_damaged_run(photos, out, capsys):
    assert train(photos, out)==0
    (out/'labels.json').write_text('{"classes": [')
    fails(capsys, 'cannot read', 'predict', out, photos)

def test_damaged_state(photos, out, capsys, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr('garbage_clf.train.fit.shutil.rmtree', lambda *args, **kwargs: None) # The state stays, as after a kill
        assert train(photos, out)==0
    state = out/'last'/'state.safetensors'
    state.write_bytes(state.read_bytes()[:1000])
    (out/'recipe.json').unlink()
    training_fails(capsys, 'is damaged', photos, out, '--resume')

def test_csv_without_column(tmp_path, capsys):
    (tmp_path/'a.csv').write_text('what,label\nx,glass\n')
    message = 'has no column for photos or texts; it has what, label'
    fails(capsys, message, 'train', tmp_path/'a.csv')

def test_csv_names_missing_photo(tmp_path, out, capsys):
    rows = [f'x{i}.jpg,{label}' for i in range(4) for label in 'ab']
    (tmp_path/'a.csv').write_text('\n'.join(['image,label', *rows])+'\n')
    training_fails(capsys, '8 of 8 photos cannot be read: no photo at', tmp_path/'a.csv', out)

def test_unknown_recipe_device_split(photos, tmp_path, out, capsys):
    fails(capsys, "did you mean 'mobilenet-frozen'", 'train', photos, '--recipe', 'mobilenet-frozn')
    fails(capsys, "device 'tpu' is not here", 'train', photos, '--device', 'tpu', '--out', out)
    (tmp_path/'a.csv').write_text('image,label,split\nx.jpg,a,deux\n')
    fails(capsys, "split 'deux' is not known", 'train', tmp_path/'a.csv')

def test_existing_run_is_untouched(photos, out, capsys):
    assert train(photos, out)==0
    before = files_of(out)
    training_fails(capsys, 'already holds a run', photos, out)
    assert before==files_of(out)


USAGE = {
    'train': 'required: data',
    'predict': 'required: run',
    'fly': 'There are demo, audit',
    'trian x': "did you mean 'train'?",
    'train x --epochs many': "invalid int value: 'many'",
    'train x --learning-rate .1': 'did you mean --lr?',
    'train x --epoks 3': 'did you mean --epochs?',
    'evaluate x y z': 'unrecognized arguments: z'}

@pytest.mark.parametrize('line', USAGE)
def test_wrong_usage_is_2(capsys, line): fails(capsys, USAGE[line], *line.split(), code=2)

FIELDS = dict(learning_rate='lr', batchsize='batch_size', wd='weight_decay')

@pytest.mark.parametrize('name', FIELDS)
def test_misspelt_recipe_field(capsys, name):
    fails(capsys, f"did you mean '{FIELDS[name]}'?", 'train', 'sample', '--set', f'{name}=1')

def test_version(capsys):
    import garbage_clf
    assert run('--version')==0
    assert capsys.readouterr().out=='garbage-clf '+garbage_clf.__version__+'\n'

def test_options_are_declared_once():
    "An option means the same in all commands that share its help"
    from garbage_clf.cli import COMMANDS
    shared = {}
    for command in COMMANDS.values():
        for option in command.options:
            assert not option.help.startswith('As for'), 'help stands by itself'
            shared.setdefault(option.help, set()).add(option.name)
    assert all(len(names)==1 for names in shared.values())


FULL = '''
import resource, sys
from garbage_clf.cli import main
import shutil, collections
if sys.argv[1]=='nearly':
    usage = collections.namedtuple('usage', 'total used free')
    shutil.disk_usage = lambda p: usage(10**9, 10**9, 3_000_000)
else: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
sys.exit(main(sys.argv[2:]))
'''

@pytest.mark.parametrize('how,message', [('nearly','only 3 MB are free'), ('suddenly','cannot write')])
def test_full_disk(photos, out, how, message):
    "Found before training if the disk is nearly full; in one line if it fills up meanwhile: here no file may pass 2 MB"
    words = ['train', str(photos), *FAST, '--out', str(out)]
    done = subprocess.run([sys.executable, '-c', FULL, how, *words], capture_output=True, text=True)
    errors = [l for l in done.stderr.splitlines() if l.startswith('error:')]
    assert done.returncode==1
    assert len(errors)==1 and message in errors[0], done.stderr[-2000:]
    assert not (out/'recipe.json').exists() and not (out/'model.safetensors').exists()
    assert {p.name for p in out.glob('.*')} <= {'.lock'}, 'no temporary files'

def test_read_only_output(photos, tmp_path, capsys):
    (tmp_path/'file').write_text('mine')
    training_fails(capsys, 'is a file', photos, tmp_path/'file')
    training_fails(capsys, 'cannot make the folder', photos, tmp_path/'file'/'run')
    assert (tmp_path/'file').read_text()=='mine'
