"Ensembles as runs, and going on with finished ones"
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from garbage_clf.analysis.ensemble_run import check_members, ensemble_items, make_ensemble
from garbage_clf.commands.ensemble import open_members
from garbage_clf.core import WorkbookError
from garbage_clf.data.items import to_items
from garbage_clf.data.sample import sample_items
from garbage_clf.train.adapt import adapt
from garbage_clf.train.evaluate import evaluate
from garbage_clf.train.fine_tune import fine_tune
from garbage_clf.train.fit import fit
from garbage_clf.train.go_on import go_on, go_on_recipe
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.run import Run, load_model
from garbage_clf.use.predict import predict

def bow(**values): return get_recipe('bow', epochs=2, **values)
def frozen(size=64, **values): return get_recipe('efficientnet-lite0-frozen', epochs=2, size=size, **values)

@pytest.fixture(scope='module')
def d(tmp_path_factory): return tmp_path_factory.mktemp('ensembles')

@pytest.fixture(scope='module')
def items(): return sample_items(240)

@pytest.fixture(scope='module')
def words(d, items): return [fit(items, bow(seed=s), d/f'words-{s}', device='cpu') for s in (1,2)]

@pytest.fixture(scope='module')
def photos(d, items): return [fit(items, frozen(seed=s), d/f'photos-{s}', device='cpu') for s in (1,2)]

@pytest.fixture(scope='module')
def together(d, photos): return make_ensemble(photos, d/'together', 'cpu')

def raw_probs(run, own):
    inputs,_ = run.make_inputs(own)
    with torch.inference_mode(): return load_model(run)(inputs.photos[:]).softmax(1)

def test_probabilities_are_the_mean_of_the_members(photos, together):
    own = together.items[:12]
    mean = torch.stack([raw_probs(run, own) for run in photos]).mean(0)
    assert torch.allclose(raw_probs(together, own), mean, atol=1e-5)
    assert not torch.allclose(raw_probs(photos[0], own), mean, atol=1e-3)

def test_a_frozen_backbone_is_stored_once(photos, together):
    names = load_model(together).state_dict()
    assert sum(n.endswith('normalize.mean') for n in names)==1
    size,one = ((r.path/'model.safetensors').stat().st_size for r in (together,photos[0]))
    assert size<1.5*one

def test_an_ensemble_is_a_run(photos, together):
    assert together.recipe.members==2
    assert [m['seed'] for m in together.training['members']]==[1,2]
    metrics,_ = evaluate(together, device='cpu')
    assert metrics['test']['accuracy']==pytest.approx(together.metrics['test']['accuracy'])
    p, = predict(together, together.items.image[0])
    assert p.label in together.labels['classes'] and len(p.nearest or [])<=3

@pytest.mark.parametrize('change,why', [(dict(embedding_dim=32),'embedding_dim'), (dict(max_tokens=64),'max_tokens')])
def test_other_designs_are_refused(words, items, tmp_path, change, why):
    other = fit(items, bow(**change), tmp_path/'other', device='cpu')
    with pytest.raises(WorkbookError, match=f'differ in {why}'): check_members([words[0],other])

def test_other_classes_and_vocabularies_are_refused(words, items, tmp_path):
    fewer = fit(items[items.label!='TTR'], bow(), tmp_path/'fewer', device='cpu')
    with pytest.raises(WorkbookError, match='differ in classes'): check_members([words[0],fewer])
    others = fit(items.assign(text='old '+items.text), bow(), tmp_path/'others', device='cpu')
    with pytest.raises(WorkbookError, match='differ in vocabulary'): check_members([words[0],others])

def test_other_sizes_are_refused(photos, items, tmp_path):
    larger = fit(items[:90], frozen(32), tmp_path/'larger', device='cpu')
    with pytest.raises(WorkbookError, match='differ in size'): check_members([photos[0],larger])

def test_one_run_or_the_same_twice(words, tmp_path):
    with pytest.raises(WorkbookError, match='at least two runs'): check_members(open_members([words[0].path]*2))
    with pytest.raises(WorkbookError, match='at most 100 runs'): check_members(words*51)
    shutil.copytree(words[0].path, tmp_path/'copy')
    with pytest.raises(WorkbookError, match='are the same model'): check_members([words[0],Run(tmp_path/'copy')])

def test_what_is_no_run_or_was_changed(words, tmp_path):
    (tmp_path/'empty').mkdir()
    with pytest.raises(WorkbookError, match='there is no run in'): open_members([tmp_path/'empty'])
    shutil.copytree(words[1].path, tmp_path/'changed')
    (tmp_path/'changed'/'labels.json').write_text('{}')
    with pytest.raises(WorkbookError, match='labels.json has changed'): open_members([words[0].path,tmp_path/'changed'])

def test_an_ensemble_is_neither_a_member_nor_trained(photos, together, items, tmp_path):
    with pytest.raises(WorkbookError, match='is an ensemble'): check_members([together,photos[0]])
    for train in (adapt,fine_tune):
        with pytest.raises(WorkbookError, match='is an ensemble'): train(together, items, tmp_path/'no')
    with pytest.raises(WorkbookError, match='is an ensemble'): go_on(together, tmp_path/'no')
    assert not (tmp_path/'no').exists()
    with pytest.raises(WorkbookError, match='members is how many finished runs'): get_recipe('bow', members=2)

def test_tested_only_on_what_no_member_has_seen(d, items):
    own = items.reset_index(drop=True)
    halves = []
    for i,part in enumerate((range(0,120),range(80,200))): # Test items of both: 80 to 119
        split = pd.Series('train', own.index).mask(own.index.isin(part), 'test').mask(own.index>=200, 'valid')
        halves.append(fit(own.assign(split=split.astype('string')), frozen(), d/f'half-{i}', device='cpu'))
    found = ensemble_items(halves)
    split = found.set_index('image').split[own.image]
    assert (split=='test').tolist()==[80<=i<120 for i in range(len(own))]
    assert (split=='valid').tolist()==[i>=200 for i in range(len(own))]

def test_a_new_class_gets_a_row_and_old_ones_keep_theirs(d, items):
    known = items[items.label!='Blue'].reset_index(drop=True)
    run = fit(known, frozen(), d/'known', device='cpu')
    wider = go_on(run, d/'wider', items[items.label=='Blue'], go_on_recipe(run, 1, 1e-8), 'cpu')
    assert wider.labels['classes']==sorted(set(items.label))
    old,new = (load_model(r).head[-1].weight for r in (run,wider))
    rows = [wider.labels['classes'].index(c) for c in run.labels['classes']]
    assert rows!=[0,1,2] and torch.allclose(new[rows], old, atol=1e-4)
    cost = wider.metrics['old_items']
    assert set(cost['recall'])==set(run.labels['classes'])
    assert cost['n']==run.metrics['test']['n']
    assert cost['before']['accuracy']==pytest.approx(run.metrics['test']['accuracy'], abs=.03)

def test_texts_keep_their_vocabulary(words, d):
    new = words[0].items[['text','label']].assign(text=lambda df: df.text+' unheard of')
    run = go_on(words[0], d/'more-words', to_items(new), device='cpu')
    assert (run.path/'tokenizer.json').read_bytes()==(words[0].path/'tokenizer.json').read_bytes()
    assert len(run.items)>len(words[0].items)

def test_a_frozen_backbone_of_its_own_is_kept(photos, d):
    changed = d/'own-backbone'
    shutil.copytree(photos[0].path, changed)
    from safetensors.torch import load_file, save_file
    weights = load_file(changed/'model.safetensors')
    name = next(n for n,t in weights.items() if n.startswith('backbone.body') and t.ndim==4)
    save_file(weights | {name: weights[name]*1.01}, changed/'model.safetensors')
    (changed/'training.json').unlink() # And with it the checksums
    longer = go_on(Run(changed), d/'longer', recipe=go_on_recipe(photos[0], 1), device='cpu')
    assert torch.equal(load_model(longer).state_dict()[name], weights[name]*1.01)

def test_no_labels_and_bad_learning_rates(photos, items, d):
    with pytest.raises(WorkbookError, match='no item has a label'): go_on(photos[0], d/'no', items.assign(label=pd.NA))
    with pytest.raises(WorkbookError, match='lr'): go_on_recipe(photos[0], 2, -1.)
    assert np.isclose(go_on_recipe(photos[0]).lr, photos[0].recipe.lr/10)
