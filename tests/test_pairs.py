"What one command writes, every other command reads; and classes may have any name"
import re

import pandas as pd
import pytest

from garbage_clf.cli import main
from garbage_clf.data.items import to_items, write_table
from garbage_clf.data.sample import sample_items
from garbage_clf.train.fit import fit
from garbage_clf.train.recipes import get_recipe

TFIDF = ['--recipe','text-tfidf','--device','cpu']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Everything that the commands write, from one table with a photo twice and a label missing"
    d = tmp_path_factory.mktemp('pairs')
    items = sample_items().groupby(['label','split']).head(8).reset_index(drop=True)
    extra = items.iloc[:2].assign(label=[items.label[0],pd.NA])
    write_table(pd.concat([items,extra], ignore_index=True).assign(split=pd.NA, group=pd.NA), d/'data.csv')
    assert main(['audit',str(d/'data.csv'),'--out',str(d/'audit')])==0
    assert main(['split',str(d/'data.csv'),'--out',str(d/'items.csv')])==0
    assert main(['train',str(d/'items.csv'),'--out',str(d/'run'),*TFIDF])==0
    assert main(['evaluate',str(d/'run'),str(d/'items.csv'),'--out',str(d/'evaluated')])==0
    return d

TABLES = ['items.csv','items.left-out.csv','run/items.csv','run/evaluation_results.csv','evaluated/evaluation_results.csv']

@pytest.mark.parametrize('table', TABLES)
@pytest.mark.parametrize('command', ['audit','split','train','evaluate','predict'])
def test_every_table_is_read(folder, table, command, tmp_path, capsys):
    path = str(folder/table)
    words = dict(audit=['audit',path], split=['split',path,'--out',str(tmp_path/'s.csv'),'--redo'],
        train=['train',path,'--out',str(tmp_path/'run'),*TFIDF], evaluate=['evaluate',str(folder/'run'),path],
        predict=['predict',str(folder/'run'),path])[command]
    code = main(words)
    err = capsys.readouterr().err
    last = err.splitlines()[-1] if err else ''
    assert code==0 or last.startswith('error: ') and 'should not happen' not in last, err
    if table in ('items.csv','run/items.csv'): assert code==0, err

def test_corrections_of_the_audit(folder, tmp_path, capsys):
    corrections = str(folder/'audit'/'corrections.csv')
    for words in (['audit'], ['split','--out',str(tmp_path/'s.csv')], ['train','--out',str(tmp_path/'run'),*TFIDF]):
        code = main([words[0],str(folder/'data.csv'),*words[1:],'--corrections',corrections])
        err = capsys.readouterr().err
        assert code==0 or words[0]=='train' and 'items have no label' in err # One label is missing

NAMES = ['$x_1$ & $', '<img src=x onerror=alert(1)>', 'a|b', '纸', '=1+1', "it's 100 % \\n", '🗑️']

def test_any_class_name(tmp_path, capsys):
    rows = [dict(text=f'word{i} thing{i} number {k}', label=name) for i,name in enumerate(NAMES) for k in range(12)]
    run = fit(to_items(rows), get_recipe('text-tfidf'), tmp_path/'run', device='cpu')
    assert sorted(run.results.actual.unique())==sorted(NAMES)
    for words in (['report'], ['publish','--out',str(tmp_path/'published')], ['export','--out',str(tmp_path/'export')], ['evaluate'],
        ['evaluate',str(tmp_path/'run/items.csv')]):
        assert main([words[0],str(run.path),*words[1:]])==0, capsys.readouterr().err
    html,card = (run.path/'report.html').read_text(),(tmp_path/'published/README.md').read_text()
    assert '<img src=x' not in html and not re.search(r'(?<!\\)<img src=x', card.split('---\n')[-1])
    for row in card.splitlines():
        if row.startswith('| a'): assert row.count('|')-row.count('\\|') in (5,6)
    table = (run.path/'confusion_matrix.csv').read_text()
    assert "\n'=1+1," in table
