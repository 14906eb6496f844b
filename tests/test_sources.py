"Several collections as one data set, from the command line to the report"
import pandas as pd
import pytest

from garbage_clf.cli import main
from garbage_clf.core import WorkbookError
from garbage_clf.data.read import read_items
from garbage_clf.train.run import Run

WORDS = dict(glass='jar bottle pane vase', metal='can tin foil lid', paper='box bag cup napkin')

def write_words(path, adjectives, names={}):
    rows = [dict(text=f'{a} {noun} {i}', label=names.get(label, label)) for label,nouns in WORDS.items()
        for noun in nouns.split() for a in adjectives for i in range(3)]
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)

@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_words(tmp_path/'town'/'items.csv', ['greasy','clean','old'])
    write_words(tmp_path/'street.csv', ['wet','flat','dirty'], dict(glass='Glas', paper='Papier'))
    (tmp_path/'names.yaml').write_text('street:\n  Glas: glass\n  Papier: paper\n')
    return 'town/items.csv+street.csv'

def run_main(*words): return main([str(w) for w in words])


def test_two_sources(data, capsys):
    assert run_main('train', data, '--recipe', 'text-tfidf', '--mapping', 'names.yaml', '--out', 'run')==0
    printed = capsys.readouterr().out
    run = Run('run')
    assert run.labels['classes']==['glass','metal','paper']
    counts = pd.crosstab(run.items.source, run.items.split)
    assert sorted(counts.index)==['street','town'] and (counts>0).all().all()
    assert list(run.metrics['test']['by_source'])==['street','town']
    found = run.metrics['leave_source_out']
    assert found['n']==len(run.items) and found['accuracy']>.9 # The nouns are the same
    assert 'test   town: ' in printed and 'without having seen it, all sources: ' in printed
    page = (run.path/'report.html').read_text()
    assert 'On photos from a place that it has not seen' in page

def test_leave_source_out_again(data, capsys):
    assert run_main('train', data, '--recipe', 'text-tfidf', '--mapping', 'names.yaml', '--out', 'run')==0
    before = Run('run').metrics['leave_source_out']
    capsys.readouterr()
    assert run_main('evaluate', 'run', '--leave-source-out')==0
    assert Run('run').metrics['leave_source_out']==before
    assert 'without having seen it, street: ' in capsys.readouterr().out

def test_a_source_called_all(data, tmp_path):
    write_words(tmp_path/'all'/'items.csv', ['greasy','clean','old'])
    assert run_main('train', 'all/items.csv+street.csv', '--recipe', 'text-tfidf', '--mapping', 'names.yaml', '--out', 'run')==0
    found = Run('run').metrics['leave_source_out']
    assert found['by_source']['all']['n']==108 and found['n']==216

@pytest.mark.parametrize('word', ['town/items.csv+','+street.csv','street.csv++town/items.csv'])
def test_an_empty_name(data, capsys, word):
    assert run_main('audit', word)==1
    assert 'there is an empty name' in capsys.readouterr().err

def test_no_run_among_the_photos(data, tmp_path, capsys):
    for place in ('a','b'): (tmp_path/place/'glass').mkdir(parents=True)
    assert run_main('train', 'a+b', '--out', 'b/run')==1
    assert 'would lie among the photos of' in capsys.readouterr().err

def test_leave_source_out_takes_no_other_items(data, capsys):
    assert run_main('train', data, '--recipe', 'text-tfidf', '--mapping', 'names.yaml', '--out', 'run')==0
    for option in (['street.csv'], ['--mapping','names.yaml']):
        assert run_main('evaluate', 'run', *option, '--leave-source-out')==1

def test_names_that_differ_are_classes_apart(data, capsys):
    assert run_main('audit', data)==0
    assert 'class from one source' in capsys.readouterr().out

def test_one_source_says_so(data, capsys):
    assert run_main('train', 'town/items.csv', '--recipe', 'text-tfidf', '--out', 'one')==0
    assert 'on photos from elsewhere is not known' in (Run('one').path/'report.html').read_text()
    assert run_main('evaluate', 'one', '--leave-source-out')==1
    assert 'was trained on one source' in capsys.readouterr().err

def test_sources_of_a_table_stay(data):
    items = read_items(data)
    items.to_csv('both.csv', index=False)
    assert read_items('both.csv').source.value_counts().to_dict()==dict(town=108, street=108)
    with pytest.raises(WorkbookError, match="names a source 'Street'"):
        open('names.yaml','w').write('Street:\n  Glas: glass\n')
        read_items(data, mapping='names.yaml')
