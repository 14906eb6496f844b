"Metrics beside scikit-learn and torchmetrics, and the cases in which analyses of a run have little to go on"
import json, shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from garbage_clf.analysis.compare_runs import open_runs, plot_runs, run_folders, run_names, runs_table, seed_table
from garbage_clf.analysis.costs import cost_matrix, cost_table, expected_costs, least_cost, run_decisions
from garbage_clf.analysis.ensembles import ensemble, ensemble_table
from garbage_clf.analysis.gallery import plot_gallery
from garbage_clf.analysis.groups import MIN_GROUP, group_sentences, group_table, quartile_bands
from garbage_clf.analysis.paired import first_right, mcnemar, pair_sentence, pair_table, paired_test
from garbage_clf.bins import check_costs, read_rules
from garbage_clf.cli import main
from garbage_clf.core import WorkbookError
from garbage_clf.data.items import to_items
from garbage_clf.data.sample import sample_items
from garbage_clf.metrics import bootstrap_interval, classification_metrics, metrics_by_split, metrics_table, wilson
from garbage_clf.scores import scores_by_split
from garbage_clf.train.cross_validate import cross_validate, fold_summary
from garbage_clf.train.fit import fit
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.run import Run
from garbage_clf.train.run_files import check_json


# Metrics of a split

def random_case(seed):
    "Classes, numbers of the actual ones and probabilities; some classes have no item, some are predicted all the same"
    rng = np.random.default_rng(seed)
    n_classes = int(rng.integers(2, 12))
    n = int(rng.integers(5, 300))
    n_present = int(rng.integers(1, n_classes+1))
    actual_idx = rng.integers(0, n_present, n)
    probs = rng.dirichlet(np.full(n_classes, rng.choice([.3,1,5])), n).clip(1e-5)
    probs /= probs.sum(1, keepdims=True)
    return [f'c{i:02}' for i in range(n_classes)],actual_idx,probs

def metrics_of(case):
    classes,actual_idx,probs = case
    return classification_metrics(np.array(classes)[actual_idx], probs, classes)

CASES = [random_case(seed) for seed in range(40)]

def test_cases_have_what_is_hard():
    lacks = [set(range(len(c)))-set(y) for c,y,_ in CASES]
    assert sum(map(bool, lacks))>10
    assert any(absent & set(p.argmax(1)) for absent,(_,_,p) in zip(lacks, CASES)) # Predicted, and no item has it
    assert {len(c)>3 for c,_,_ in CASES}=={True,False}

@pytest.mark.parametrize('case', CASES)
def test_metrics_are_those_of_scikit_learn(case):
    from sklearn import metrics as sk
    classes,y,probs = case
    m,predicted,labels = metrics_of(case),probs.argmax(1),range(len(classes))
    assert m['accuracy']==pytest.approx(sk.accuracy_score(y, predicted))
    with pytest.warns(UserWarning) if set(predicted)-set(y) else nullcontext():
        assert m['balanced_accuracy']==pytest.approx(sk.balanced_accuracy_score(y, predicted))
    assert m['weighted_f1']==pytest.approx(sk.f1_score(y, predicted, average='weighted', zero_division=0))
    assert m['log_loss']==pytest.approx(sk.log_loss(y, probs, labels=labels))
    assert m['brier']==pytest.approx(sk.brier_score_loss(y, probs, labels=labels, scale_by_half=False))
    if len(classes)>3: assert m['top3_accuracy']==pytest.approx(sk.top_k_accuracy_score(y, probs, k=3, labels=labels))
    else: assert 'top3_accuracy' not in m

@pytest.mark.parametrize('case', CASES)
def test_metrics_are_those_of_torchmetrics(case):
    from torchmetrics.functional import classification as tm
    from torchmetrics.functional.text import perplexity
    classes,y,probs = case
    m,c = metrics_of(case),len(classes)
    y,probs = torch.tensor(y),torch.tensor(probs)
    has_items = torch.bincount(y, minlength=c)>0
    recall = tm.multiclass_recall(probs, y, c, average=None)
    f1 = tm.multiclass_f1_score(probs, y, c, average=None)
    assert m['accuracy']==pytest.approx(tm.multiclass_accuracy(probs, y, c, average='micro').item(), abs=1e-6)
    assert m['balanced_accuracy']==pytest.approx(recall[has_items].mean().item(), abs=1e-6)
    assert m['macro_f1']==pytest.approx(f1[has_items].mean().item(), abs=1e-6)
    assert m['weighted_f1']==pytest.approx(tm.multiclass_f1_score(probs, y, c, average='weighted').item(), abs=1e-6)
    assert m['log_loss']==pytest.approx(perplexity(probs.log()[None], y[None]).log().item(), abs=1e-5)
    assert m['ece']==pytest.approx(tm.multiclass_calibration_error(probs, y, c, n_bins=15).item(), abs=1e-5)
    if c>3: assert m['top3_accuracy']==pytest.approx(tm.multiclass_accuracy(probs, y, c, top_k=3, average='micro').item(), abs=1e-6)
    for i,row in enumerate(m['per_class'].values()):
        assert row['recall']==pytest.approx(recall[i].item(), abs=1e-6) and row['f1']==pytest.approx(f1[i].item(), abs=1e-6)

def test_100_classes():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 90, 500) # Ten classes without an item
    probs = rng.dirichlet(np.ones(100), 500)
    m = metrics_of(([f'c{i}' for i in range(100)],y,probs))
    assert len(metrics_table(m))==100 and metrics_table(m).recall.isna().sum()>=10
    assert 0<m['top3_accuracy']<.1 and m['top3_accuracy']>=m['accuracy']

def test_a_class_is_never_predicted():
    m = classification_metrics(['a','a','b'], [[.9,.1],[.8,.2],[.7,.3]], ['a','b'])
    assert m['balanced_accuracy']==.5 and m['per_class']['b']['precision']==0
    assert m['log_loss']==pytest.approx(-np.log([.9,.8,.3]).mean())

def test_a_sure_mistake_is_finite():
    m = classification_metrics(['a','b'], [[1,0],[1,0]], ['a','b'])
    assert 7<m['log_loss']<7.3 and m['brier']==pytest.approx(1, abs=1e-5)

def test_bootstrap_interval():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low,high = bootstrap_interval(values)
    assert low<values.mean()<high and high-low==pytest.approx(2*1.96*.1, rel=.15)
    assert bootstrap_interval(values)==(low,high), 'the same seed gives the same interval'
    assert bootstrap_interval([1,1,1])==(1,1) and np.isnan(bootstrap_interval([1])).all()

NEW = ('balanced_accuracy','weighted_f1','top3_accuracy','log_loss','brier')

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return fit(sample_items(), get_recipe('text-tfidf'), tmp_path_factory.mktemp('cases')/'run', device='cpu')

def as_old(run, folder):
    "A copy of a run as an older version wrote it"
    shutil.copytree(run.path, folder)
    metrics = json.loads((folder/'metrics.json').read_text())
    for split in ('test','valid'): metrics[split] = {k: v for k,v in metrics[split].items() if k not in NEW}
    (folder/'metrics.json').write_text(json.dumps(metrics))
    (folder/'training.json').unlink()
    return Run(folder)

def test_new_runs_keep_the_scores(run):
    assert set(NEW)<=set(run.metrics['test'])
    assert scores_by_split(run.metrics).index.tolist()==['test','valid']

def test_runs_of_older_versions_open(run, tmp_path):
    old = as_old(run, tmp_path/'old')
    assert not set(NEW) & set(old.metrics['test'])
    assert metrics_by_split(old.metrics).equals(metrics_by_split(run.metrics))
    assert len(scores_by_split(old.metrics))==0

@pytest.mark.parametrize('name,value', [('balanced_accuracy',2), ('log_loss',-1), ('brier','high'), ('top3_accuracy',None)])
def test_damaged_scores_are_refused(run, name, value):
    metrics = json.loads((run.path/'metrics.json').read_text())
    metrics['test'][name] = value
    with pytest.raises(WorkbookError, match=f'test.{name}'): check_json(metrics, 'metrics.json')


# Groups

def results_of(correct, **columns):
    "A run with one test item for each value of `correct`"
    n = len(correct)
    rows = pd.DataFrame(dict(image=pd.NA, text=[f't{i}' for i in range(n)], split='test', source='a', actual='x'), index=range(n))
    rows['predicted'] = np.where(correct, 'x', 'y')
    rows = rows.assign(**columns).astype('string')
    nothing_seen = pd.DataFrame(dict(text=['other'], split=['train']))
    return SimpleNamespace(results=rows, items=nothing_seen, labels=dict(modalities=['text']))

def test_a_weak_group_is_named_once():
    run = results_of([True]*80+[False]*20, source=['a']*70+['b']*30)
    table = group_table(run)
    assert table.worse.tolist()==[False,True] and len(group_sentences(table))==2
    assert table.loc[('source','b')][['low','high']].tolist()==pytest.approx(wilson(10, 30), abs=1e-3)

def test_p_is_fishers_times_the_number_of_groups():
    from scipy.stats import fisher_exact
    table = group_table(results_of([True]*60+[False]*40, source=['a']*50+['b']*50))
    p = fisher_exact([[10,40],[50,0]], alternative='less').pvalue
    assert table.p['source','b']==pytest.approx(2*p)

def test_small_groups_are_not_judged():
    n = MIN_GROUP-1
    table = group_table(results_of([True]*100+[False]*n, source=['a']*100+['b']*n))
    assert table.p.isna().all() and not table.worse.any() # Nor the large one, whose rest is small

def test_few_false_alarms():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        sources = rng.choice(list('abcde'), 300)
        alarms += group_table(results_of(rng.random(300)<.8, source=sources)).worse.any()
    assert alarms<=16 # 10 are expected at most

@pytest.mark.parametrize('n', [1,2,3,7,100])
def test_quartiles_hold_every_value(n):
    values = pd.Series(np.random.default_rng(n).random(n))
    bands = quartile_bands(values, 3)
    assert bands.notna().all() and bands.value_counts().max()<=np.ceil(n/4)+1

def test_quartiles_without_values(): assert quartile_bands(pd.Series([np.nan]*3)).isna().all()


# Costs

BINS = ('Black','Blue','Green','TTR')
EQUAL = {a: {b: float(a!=b) for b in BINS} for a in BINS}

def test_least_cost_is_the_cheapest():
    rng = np.random.default_rng(0)
    costs = cost_matrix(BINS)
    probs = rng.dirichlet(np.ones(4), 200)
    expected = expected_costs(probs, costs)
    by_hand = [[sum(p[a]*costs.iloc[a,d] for a in range(4)) for d in range(4)] for p in probs]
    assert np.allclose(expected, by_hand)
    assert np.allclose(expected[range(200),least_cost(probs, costs)], expected.min(1))

def test_equal_costs_change_nothing(run):
    rules = dict(read_rules(), costs=EQUAL)
    decisions = run_decisions(run, rules=rules)
    assert (decisions.predicted==decisions.decision).all() and not decisions.is_changed.any()
    table = cost_table(decisions)
    assert table.mean_cost['least cost']==pytest.approx(1-run.metrics['test']['accuracy'], abs=1e-3)

def test_classes_of_one_bin_are_free():
    costs = cost_matrix(['paper','glass','battery'])
    assert costs.loc['paper','glass']==0 and costs.loc['battery','glass']==15
    assert least_cost(np.array([[.3,.7,0]]), costs).tolist()==[1] # Of those that cost the same, the most probable

def test_the_package_has_costs_for_all_bins():
    rules = read_rules()
    assert check_costs(rules['costs'], rules['bins'])==rules['costs']
    assert rules['costs']['TTR']['Green']==max(max(row.values()) for row in rules['costs'].values())

def test_rules_without_costs(run):
    rules = {k: v for k,v in read_rules().items() if k!='costs'}
    with pytest.raises(WorkbookError, match='have no costs: add `costs:`'): run_decisions(run, rules=rules)

def test_a_run_without_a_test_split(run):
    one = SimpleNamespace(results=run.results[run.results.split=='valid'], items=run.items, labels=run.labels, rules=None)
    for function in (group_table, run_decisions):
        with pytest.raises(WorkbookError, match='this run has no test items: it has valid'): function(one)
    assert len(run_decisions(one, 'valid'))==len(one.results)


# Finished runs beside each other

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Three runs on the same items, and one on others"
    d,items = tmp_path_factory.mktemp('compare'),sample_items()
    for name,recipe in (('words','text-tfidf'),('bow','bow'),('again','text-tfidf')):
        fit(items, get_recipe(recipe), d/'runs'/name, device='cpu')
    words = items.assign(text=items.text+' and more', image=pd.NA)
    fit(words, get_recipe('text-tfidf'), d/'others'/'other', device='cpu')
    return d

def test_runs_can_be_named_in_many_ways(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert [p.name for p in run_folders('runs')]==['again','bow','words']
    assert [p.name for p in run_folders(['runs/w*',Run('runs/bow'),folder/'runs'/'words'])]==['words','bow']
    assert [p.name for p in run_folders(Run('runs/bow'))]==['bow']
    assert run_names(open_runs('runs/*'))==['again','bow','words']

def test_table_has_what_the_runs_say(folder):
    table = runs_table(open_runs(folder/'runs'))
    m = Run(folder/'runs'/'bow').metrics
    row = table.loc['bow']
    assert row.n==m['test']['n'] and row.low==round(m['test']['accuracy_ci'][0], 3) and row.ece==round(m['test']['ece'], 3)
    assert row.seconds==pytest.approx(sum(m['seconds'].values()), abs=.06) and table['items'].nunique()==1
    assert table.accuracy.is_monotonic_decreasing

def test_the_same_training_twice_shows_no_difference(folder):
    result = paired_test(*open_runs([folder/'runs'/'again',folder/'runs'/'words']))
    assert (result.p,result.difference,result.agreement)==(1,0,1)

def test_paired_test_by_hand(folder):
    words,bow = open_runs([folder/'runs'/'words',folder/'runs'/'bow'])
    a,b = (r.results[r.results.split=='test'].eval('actual==predicted').to_numpy() for r in (words,bow))
    result = paired_test(words, bow)
    assert (result.only_first,result.only_second)==((a&~b).sum(),(b&~a).sum())
    assert result.difference==pytest.approx(a.mean()-b.mean())
    low,high = bootstrap_interval(a.astype(int)-b)
    assert (result.low,result.high)==(low,high)

@pytest.mark.parametrize('first,second', [(0,0),(1,0),(5,5),(9,1),(0,40),(120,80)])
def test_mcnemar(first, second):
    from math import comb
    n,k = first+second,min(first, second)
    by_hand = min(1, 2*sum(comb(n, i) for i in range(k+1))/2**n)
    assert mcnemar(first, second)==pytest.approx(by_hand) and mcnemar(second, first)==mcnemar(first, second)

def test_runs_on_different_items(folder):
    words,other = open_runs([folder/'runs'/'words',folder/'others'])
    with pytest.raises(WorkbookError, match='words and other share 0 of 143 and 143 test items: comparing them takes 30'):
        paired_test(words, other)
    assert runs_table([words,other])['items'].nunique()==2
    with pytest.raises(WorkbookError, match='share 0 test items: an ensemble takes 30'): ensemble([words,other])

def test_runs_share_some_items(folder, tmp_path):
    items = sample_items()
    tests = items.index[items.split=='test']
    some = fit(items.drop(tests[40:]), get_recipe('text-tfidf'), tmp_path/'some', device='cpu')
    assert paired_test(Run(folder/'runs'/'words'), some).n==40

@pytest.fixture
def broken(folder, tmp_path, request):
    "A copy of a run with one thing wrong, beside a sound one"
    for name in ('words','bow'): shutil.copytree(folder/'runs'/name, tmp_path/'runs'/name)
    path = tmp_path/'runs'/'bow'
    name,what = request.param
    if what=='missing': (path/name).unlink()
    else: (path/name).write_text((path/name).read_text().replace('1', '2', 1))
    return tmp_path/'runs'

@pytest.mark.parametrize('broken', [(n,'missing') for n in ('recipe.json','labels.json','model.safetensors','metrics.json',
    'evaluation_results.csv')] + [(n,'changed') for n in ('recipe.json','labels.json','metrics.json','evaluation_results.csv','items.csv')],
    indirect=True, ids=str)
def test_a_broken_run_does_not_stop_the_others(broken, caplog):
    assert [r.path.name for r in open_runs(broken)]==['words']
    assert 'bow' in caplog.text
    with pytest.raises(WorkbookError, match='bow'): open_runs(broken/'bow')
    assert main(['compare',str(broken)])==0
    assert main(['compare',str(broken/'bow')])==1

def test_a_run_of_an_older_version_is_compared(folder, run, tmp_path):
    as_old(Run(folder/'runs'/'words'), tmp_path/'old')
    runs = open_runs([tmp_path/'old',folder/'runs'/'bow'])
    table = runs_table(runs)
    assert np.isnan(table.log_loss['old']) and table.log_loss['bow']>0
    assert paired_test(*runs).n==143
    plt.close(plot_runs(table))

def test_runs_without_a_test_split(folder, tmp_path, caplog):
    items = sample_items()
    fit(items[items.split!='test'], get_recipe('text-tfidf'), tmp_path/'valid', device='cpu')
    with pytest.raises(WorkbookError, match='valid has no metrics of test items'): open_runs(tmp_path)
    assert [r.path.name for r in open_runs([tmp_path,folder/'runs'/'bow'])]==['bow'] and 'no metrics of test items' in caplog.text
    assert [r.path.name for r in open_runs(tmp_path, 'valid')]==['valid']

def test_photos_that_have_gone(tmp_path, caplog):
    items = sample_items(300)
    for i,path in enumerate(items.image): shutil.copy(path, tmp_path/f'{i}.png')
    items = items.assign(image=[str(tmp_path/f'{i}.png') for i in range(len(items))])
    runs = [fit(items, get_recipe('cnn-small', size=32, epochs=1, seed=s), tmp_path/f'run{s}', device='cpu') for s in (1,2)]
    before = paired_test(*runs)
    for path in items.image[items.split=='test'][:10]: Path(path).unlink()
    after = paired_test(*open_runs([r.path for r in runs]))
    assert (before.n,before.p)==(after.n,after.p)
    assert group_table(runs[0]).attrs['n_unreadable']==10
    assert len(plot_gallery(first_right(*runs)).axes)>0
    plt.close('all')
    assert seed_table(runs_table(runs)).seeds.tolist()==[2]

def test_ensemble_is_the_mean(folder):
    runs = open_runs([folder/'runs'/'words',folder/'runs'/'bow'])
    column = 'probability_TTR'
    tests = [r.results[r.results.split=='test'] for r in runs]
    mean = (tests[0][column].to_numpy()+tests[1][column].to_numpy())/2
    assert np.allclose(ensemble(runs)[column], mean, atol=1e-6)
    table = ensemble_table(runs)
    assert table.accuracy['words']==round(runs[0].metrics['test']['accuracy'], 3) and len(table)==3

def test_100_classes_are_compared(tmp_path):
    rows = [dict(text=f'word{c} thing{c} number {k}', label=f'class {c:02}', split='test' if k<1 else 'valid' if k<2 else 'train')
        for c in range(100) for k in range(8)]
    items = to_items(rows)
    runs = [fit(items, get_recipe('bow', epochs=2), tmp_path/name, device='cpu') for name in ('one','two')]
    assert paired_test(*runs).n==100 and len(ensemble_table(runs))==3
    assert main(['compare',str(tmp_path),'--out',str(tmp_path/'out'),'--ensemble'])==0
    assert {p.name for p in (tmp_path/'out').iterdir()}=={'runs.csv','pairs.csv','ensemble.csv','runs.png','right_one.png','right_two.png'}
    with pytest.raises(WorkbookError, match='do not know'): run_decisions(runs[0])

def test_odd_names_of_runs_and_classes(tmp_path):
    rows = [dict(text=f'word{c} number {k}', label=name) for c,name in enumerate(['$x_1$','=1+1','<b>']) for k in range(70)]
    runs = [fit(to_items(rows), get_recipe('text-tfidf'), tmp_path/name, device='cpu') for name in ('=a $x$','<b>&')]
    assert main(['compare',*[str(r.path) for r in runs],'--out',str(tmp_path/'out')])==0
    assert (tmp_path/'out'/'runs.csv').read_text().count("'=a $x$")==1 # No formula

def test_cross_validation_tests_every_item_once(tmp_path):
    items = sample_items(200)
    table = cross_validate(items, get_recipe('text-tfidf'), tmp_path, k=4, device='cpu')
    tested = pd.concat([Run(tmp_path/f'fold-{i}').items.query('split=="test"') for i in range(1, 5)])
    assert table.n.sum()==len(tested)==tested.image.nunique()
    summary = fold_summary(table)
    assert summary.n==len(tested) and summary.spread==pytest.approx(table.accuracy.std(), abs=1e-3)
    right = sum(round(a*n) for a,n in zip(table.accuracy, table.n))
    assert (summary.low,summary.high)==pytest.approx(wilson(right, len(tested)), abs=1e-3)

def test_a_sentence_is_seen_from_the_better_run():
    row = SimpleNamespace(run='a', other='b', n=100, difference=-.3, low=-.4, high=-.2, only_first=5, only_second=35, p=.001)
    assert pair_sentence(row).startswith('b is better than a (30.0 points, 95 % interval 20.0 to 40.0; alone right on 35 and 5 of')
    row.p = .3
    assert pair_sentence(row).startswith('no difference between b and a is shown')

@pytest.mark.parametrize('name', ['recipe.json','labels.json'])
def test_a_damaged_old_run_does_not_stop_the_others(folder, tmp_path, name):
    old = as_old(Run(folder/'runs'/'words'), tmp_path/'old')
    (old.path/name).write_text('{"classes": [')
    assert [r.path.name for r in open_runs([tmp_path,folder/'runs'/'bow'])]==['bow']

def test_pairs_are_corrected(folder):
    runs = open_runs(folder/'runs')
    pairs = pair_table(runs)
    by_hand = [min(1, 3*paired_test(runs[i], runs[j]).p) for i,j in ((0,1),(0,2),(1,2))]
    assert pairs.p.tolist()==pytest.approx(by_hand, abs=1e-4)
