"Runs and folders that somebody else has made: nothing in them is run, followed out of them, or believed when it has changed"
import json, os, shutil, subprocess, sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from garbage_clf.analysis.report import report
from garbage_clf.core import WorkbookError
from garbage_clf.data.items import to_items
from garbage_clf.train.evaluate import evaluate
from garbage_clf.train.fit import fit, resume_fit
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.run import Run, load_model
from garbage_clf.use.predict import predict
from garbage_clf.use.publish import model_folder

WORDS = dict(glass='jar bottle pane vase', metal='can tin foil lid', paper='box bag cup napkin')

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    rows = [dict(text=f'{adjective} {noun} {i}', label=label) for label,nouns in WORDS.items() for noun in nouns.split()
        for adjective in ('greasy','clean','old') for i in range(3)]
    return fit(to_items(rows), get_recipe('text-tfidf'), tmp_path_factory.mktemp('run')/'run', device='cpu')

@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path/'got')
    return Run(tmp_path/'got')

def change_json(path, **values): path.write_text(json.dumps(json.loads(path.read_text())|values))


def test_templates_of_the_working_folder(run, tmp_path):
    (tmp_path/'lab').mkdir()
    (tmp_path/'lab'/'index.html.j2').write_text("{{ cycler.__init__.__globals__.os.system('echo > pwned') }}")
    (tmp_path/'matplotlibrc').write_text('text.usetex: True\n')
    program = 'from garbage_clf.cli import main; raise SystemExit(main())'
    code = tmp_path/'code'
    code.mkdir()
    (code/'go.py').write_text(program)
    done = subprocess.run([sys.executable, str(code/'go.py'), 'report', str(run.path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    assert not (tmp_path/'pwned').exists()
    assert 'Confusion matrix' in (run.path/'report.html').read_text()

def test_links_out_of_a_run(run, tmp_path):
    mine = tmp_path/'thesis.txt'
    mine.write_text('mine')
    (run.path/'plots').mkdir(exist_ok=True)
    (run.path/'plots'/'learning_curves.png').unlink(missing_ok=True)
    (run.path/'plots'/'learning_curves.png').symlink_to(mine)
    report(run)
    assert mine.read_text()=='mine'
    (run.path/'rules.yaml').unlink(missing_ok=True)
    (run.path/'rules.yaml').symlink_to(mine)
    with pytest.raises(WorkbookError, match='outside of got'): model_folder(run, tmp_path/'published')
    assert not (tmp_path/'published').exists()

@pytest.mark.parametrize('name', ['items.csv','labels.json','rules.yaml','plots'])
def test_training_overwrites_nothing(trained, tmp_path, name):
    (tmp_path/name).write_text('mine')
    with pytest.raises(WorkbookError, match=f'holds {name}'): fit(trained.items, trained.recipe, tmp_path, device='cpu')
    assert (tmp_path/name).read_text()=='mine'

def test_changed_files(run):
    classes = run.labels['classes']
    change_json(run.path/'labels.json', classes=classes[::-1])
    with pytest.raises(WorkbookError, match='labels.json has changed since it was written'): predict(Run(run.path), text='greasy jar')

def test_files_that_do_not_belong_together(run):
    change_json(run.path/'recipe.json', size=32)
    change_json(run.path/'training.json', sha256={'labels.json': run.training['sha256']['labels.json']}) # As older versions kept them
    with pytest.raises(WorkbookError, match='do not belong together: size'): load_model(Run(run.path))

def test_weights_that_are_no_numbers(run):
    path = run.path/'model.safetensors'
    weights = load_file(path)
    save_file({k: v*float('nan') if v.is_floating_point() else v for k,v in weights.items()}, path)
    (run.path/'training.json').unlink()
    with pytest.raises(WorkbookError, match='not finite'): predict(Run(run.path), text='greasy jar')

def test_training_items_called_test(run, caplog, tmp_path):
    items = run.items.assign(sha256='a', split=['train','test']*(len(run.items)//2))
    items.to_csv(run.path/'items.csv', index=False)
    with caplog.at_level('WARNING'): evaluate(Run(run.path), device='cpu')
    assert 'have a photo that the run was trained on' in caplog.text

@pytest.mark.parametrize('name', ['training.json','metrics.json','rules.yaml','tokenizer.json','items.csv'])
def test_pipes_in_a_run(run, name):
    (run.path/name).unlink(missing_ok=True)
    os.mkfifo(run.path/name)
    with pytest.raises(WorkbookError):
        if name=='items.csv': evaluate(run.path, device='cpu')
        else: predict(run.path, text='greasy jar')

def test_damaged_state(trained, tmp_path, monkeypatch):
    from garbage_clf.train import fit as module
    def stop(*args, **kwargs): raise KeyboardInterrupt
    recipe = get_recipe('bow', epochs=3)
    items = trained.items.drop(columns='sha256', errors='ignore')
    with monkeypatch.context() as m:
        m.setattr(module, 'write_run', stop)
        with pytest.raises(KeyboardInterrupt): fit(items, recipe, tmp_path/'r', device='cpu')
    state = tmp_path/'r'/'last'/'state.safetensors'
    content = bytearray(state.read_bytes())
    content[-5000] ^= 1
    state.write_bytes(content)
    with pytest.raises(WorkbookError, match='is damaged'): resume_fit(items, recipe, tmp_path/'r', device='cpu')

def test_every_file_of_a_run_is_guarded(trained):
    "What a training writes, one into another folder refuses to overwrite; to a log it adds lines"
    from garbage_clf.train.run_folder import RUN_FILES
    report(trained)
    written = {p.name for p in trained.path.iterdir() if not p.name.startswith('.')}
    assert written<=set(RUN_FILES)|{'last','log.txt'}, written-set(RUN_FILES)

def warned(caplog): return [r.getMessage() for r in caplog.records if r.levelname=='WARNING']

def test_a_cut_table_of_items(run, caplog, tmp_path):
    "Half of items.csv would make test items of training items"
    lines = (run.path/'items.csv').read_text().splitlines(True)
    (run.path/'items.csv').write_text(''.join(lines[:len(lines)//2]))
    evaluate(run, device='cpu')
    assert any('items.csv has changed since it was written' in w for w in warned(caplog))
    with pytest.raises(WorkbookError, match='items.csv has changed'): model_folder(Run(run.path), tmp_path/'published')

def test_a_flipped_bit_in_a_figure(run, caplog, tmp_path):
    text = (run.path/'metrics.json').read_text()
    (run.path/'metrics.json').write_text(text.replace('"accuracy": 0.', '"accuracy": 0.1', 1) if '"accuracy": 0.' in text else text.replace('"accuracy": 1.0', '"accuracy": 0.9', 1))
    assert (run.path/'metrics.json').read_text()!=text
    report(run)
    assert any('metrics.json has changed since it was written' in w for w in warned(caplog))
    with pytest.raises(WorkbookError, match='metrics.json has changed'): model_folder(Run(run.path), tmp_path/'published')

@pytest.mark.parametrize('name', ['model.safetensors','labels.json','tokenizer.json','recipe.json'])
def test_what_is_damaged_is_not_published(run, tmp_path, name):
    path = run.path/name
    if name=='tokenizer.json': path.unlink()
    else: path.write_bytes(path.read_bytes()+b' ')
    with pytest.raises(WorkbookError, match=f'{name} has changed'): model_folder(Run(run.path), tmp_path/'published')
    assert not (tmp_path/'published').exists()

def test_another_recipe_predicts_nothing(run):
    change_json(run.path/'recipe.json', batch_size=7)
    with pytest.raises(WorkbookError, match='recipe.json has changed'): predict(run.path, text='jar')

def test_pipes_are_not_published(run, tmp_path):
    (run.path/'rules.yaml').unlink(missing_ok=True)
    os.mkfifo(run.path/'rules.yaml')
    with pytest.raises(WorkbookError, match='rules.yaml'): model_folder(run, tmp_path/'published')

@pytest.mark.parametrize('out', ['.','published'])
def test_published_into_what_is_there(run, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'published').symlink_to('nowhere')
    with pytest.raises(WorkbookError, match='is there already'): model_folder(run, out)

@pytest.mark.parametrize('name', ['log.txt','.lock','last'])
def test_a_training_writes_through_no_link(trained, tmp_path, name):
    mine = tmp_path/'mine.txt'
    mine.write_text('mine')
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/name).symlink_to(mine)
    with pytest.raises(WorkbookError, match='is a link|holds a training'): fit(trained.items, trained.recipe, tmp_path/'out', device='cpu')
    assert mine.read_text()=='mine'

def with_text_config(run, **config):
    "The run as if a text encoder of `transformers` belonged to it"
    recipe = json.loads((run.path/'recipe.json').read_text())
    from dataclasses import asdict
    recipe |= asdict(get_recipe('text-transformer-frozen', text='theirs'))
    (run.path/'recipe.json').write_text(json.dumps(recipe))
    (run.path/'text_config.json').write_text(json.dumps(config))
    (run.path/'training.json').unlink()
    change_json(run.path/'labels.json', size=recipe['size'])
    return Run(run.path)

def test_a_text_encoder_brings_no_code(run, tmp_path, monkeypatch):
    (run.path/'mod.py').write_text(f"open({str(tmp_path/'pwned')!r},'w').write('x')\n")
    (run.path/'config.json').write_text('{}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('builtins.input', lambda *_: 'y')
    odd = with_text_config(run, model_type='EvollaModel', hidden_size=64, auto_map=dict(AutoModel='got--mod.EvilModel'))
    with pytest.raises(WorkbookError, match='is no text encoder'): predict(odd.path, text='jar')
    assert not (tmp_path/'pwned').exists()

def test_a_recipe_brings_no_code(trained, tmp_path, monkeypatch):
    theirs = tmp_path/'theirs'
    theirs.mkdir()
    (theirs/'mod.py').write_text(f"open({str(tmp_path/'pwned')!r},'w').write('x')\n")
    (theirs/'config.json').write_text(json.dumps(dict(model_type='evilnet', auto_map=dict(AutoConfig='mod.EvilConfig', AutoModel='mod.EvilModel'))))
    monkeypatch.setattr('builtins.input', lambda *_: 'y')
    with pytest.raises(WorkbookError, match='cannot get'):
        fit(trained.items, get_recipe('text-transformer-frozen', text=str(theirs)), tmp_path/'out', device='cpu')
    assert not (tmp_path/'pwned').exists()

def test_a_large_network_is_refused_before_it_is_made(run):
    import resource
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = with_text_config(run, model_type='bert', vocab_size=1_500_000, hidden_size=768, num_hidden_layers=1, num_attention_heads=12, intermediate_size=64)
    with pytest.raises(WorkbookError, match='does not fit its recipe'): predict(large.path, text='jar')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before < 1_000_000 # kB

def test_an_export_copies_nothing_from_outside(run, tmp_path):
    from garbage_clf.use.export import export_weights
    (tmp_path/'secret.txt').write_text('mine')
    (run.path/'text_config.json').symlink_to(tmp_path/'secret.txt')
    (run.path/'training.json').unlink()
    with pytest.raises(WorkbookError): export_weights(run, tmp_path/'export')
    assert not (tmp_path/'export').exists()

def test_rules_are_there_before_the_run_is_finished(trained, tmp_path, monkeypatch):
    "A kill right after the training leaves a run with its rules, or none"
    import garbage_clf.train.write_run as module
    rules = 'bins: {Brown: brown}\nrules: {glass: Brown, metal: Brown, paper: Brown}\n'
    items = trained.items.drop(columns='sha256', errors='ignore')
    items.attrs['rules'] = rules
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr(module.os, 'replace', lambda a,b: stop() if str(b).endswith('recipe.json') else os.rename(a, b))
    with pytest.raises(KeyboardInterrupt): fit(items, trained.recipe, tmp_path/'out', device='cpu')
    assert (tmp_path/'out'/'rules.yaml').read_text()==rules and not (tmp_path/'out'/'recipe.json').exists()

def test_a_link_in_the_cache(tmp_path, monkeypatch):
    from garbage_clf.cache import cache_dir, cache_table, shrink_cache
    monkeypatch.setenv('GARBAGE_CLF_CACHE', str(tmp_path))
    (tmp_path/'precious').mkdir()
    (tmp_path/'precious'/'thesis.txt').write_text('mine')
    cache_dir().joinpath('rows-9').symlink_to(tmp_path/'precious')
    assert not len(cache_table()) and shrink_cache()==[]
    assert [p.name for p in (tmp_path/'precious').iterdir()]==['thesis.txt']

def test_a_table_that_came_in_the_meantime(trained, tmp_path, monkeypatch, capsys):
    from garbage_clf.cli import main
    from garbage_clf.data import splits
    trained.items[['text','label']].to_csv(tmp_path/'notes.csv', index=False)
    real = splits.split
    def slow(*args, **kwargs):
        (tmp_path/'out.csv').write_text('mine')
        return real(*args, **kwargs)
    monkeypatch.setattr(splits, 'split', slow)
    assert main(['split', str(tmp_path/'notes.csv'), '--out', str(tmp_path/'out.csv')])==1
    assert (tmp_path/'out.csv').read_text()=='mine' and 'is there already' in capsys.readouterr().err
