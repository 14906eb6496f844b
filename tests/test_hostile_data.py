"Data that is read wrongly, costs too much, or makes figures better than they are"
import io, json, shutil

import pandas as pd
import pytest
from PIL import Image

from garbage_clf.core import WorkbookError
from garbage_clf.data.download import sha256
from garbage_clf.data.images import load_image
from garbage_clf.data.items import to_items
from garbage_clf.data.prepare import prepare_items
from garbage_clf.data.read import read_items
from garbage_clf.data.sample import sample_items
from garbage_clf.data.tables import from_table
from garbage_clf.train.evaluate import evaluate
from garbage_clf.train.fit import fit
from garbage_clf.train.leave_source_out import leave_source_out
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.run import Run

@pytest.fixture(scope='module')
def photo_run(tmp_path_factory):
    recipe = get_recipe('efficientnet-lite0-frozen', size=64, epochs=2)
    return fit(sample_items(240), recipe, tmp_path_factory.mktemp('run')/'run', device='cpu')


def _table_of_words(n, split):
    words = ['glass bottle','tin can','news paper']
    return pd.DataFrame([dict(text=f'{words[i%3]} {split} {i} x{i*7}', label=words[i%3][:5], split=split) for i in range(n)])

def test_repeated_test_items_are_said(tmp_path, caplog):
    parts = [_table_of_words(60, 'train'),_table_of_words(24, 'valid')]+[_table_of_words(6, 'test')]*4
    pd.concat(parts).to_csv(tmp_path/'twice.csv', index=False)
    with caplog.at_level('WARNING'): prepare_items(from_table(tmp_path/'twice.csv'), ['text'])
    assert '18 of 24 test items repeat another one' in caplog.text

def test_whole_numbers_beside_an_empty_cell_keep_their_digits(tmp_path):
    import pyarrow as pa, pyarrow.parquet as pq
    big = 9007199254740993
    pq.write_table(pa.table(dict(text=['a','b','c'], label=pa.array([big,big-1,None]))), tmp_path/'t.parquet')
    assert from_table(tmp_path/'t.parquet').label.tolist()[:2]==[str(big),str(big-1)]

def test_many_empty_cells_are_refused_before_they_take_memory(tmp_path):
    import pyarrow as pa, pyarrow.parquet as pq
    nulls = pa.nulls(11_000_000, pa.string())
    pq.write_table(pa.table(dict(text=nulls, label=nulls)), tmp_path/'nulls.parquet')
    with pytest.raises(WorkbookError, match='22,000,000 cells'): from_table(tmp_path/'nulls.parquet')

def test_a_jpeg_of_many_scans_is_refused(tmp_path):
    out = io.BytesIO()
    Image.new('L', (64,64), 120).save(out, 'JPEG', progressive=True)
    content = out.getvalue()
    scan = content[content.rindex(b'\xff\xda'):-2]
    (tmp_path/'scans.jpg').write_bytes(content[:-2]+scan*200+b'\xff\xd9')
    with pytest.raises(WorkbookError, match='scans, more than 100'): load_image(tmp_path/'scans.jpg', 32)

def test_one_and_one_point_zero_are_one_class(tmp_path):
    rows = [json.dumps(dict(text=f'{w} {i}', label=l)) for i in range(9) for w,l in (('bottle',1),('jar',1.0),('can',2))]
    (tmp_path/'num.jsonl').write_text('\n'.join(rows))
    with pytest.raises(WorkbookError, match='look like one class'): prepare_items(from_table(tmp_path/'num.jsonl'), ['text'])

def test_a_mapping_keeps_labels_that_it_does_not_name(tmp_path):
    (tmp_path/'a.csv').write_text('text,label\nx,one\nw,null\n')
    (tmp_path/'m.yaml').write_text('one: glass\n')
    assert sorted(read_items(tmp_path/'a.csv', mapping=tmp_path/'m.yaml').label)==['glass','null']

def test_all_near_duplicates_of_training_photos_are_left_out(tmp_path, photo_run):
    trained = photo_run.items[photo_run.items.split=='train'].image.iloc[0]
    im = Image.open(trained).convert('RGB')
    label = photo_run.labels['classes'][0]
    for i in range(30): im.resize((200+i,150+i)).save(tmp_path/f'{i}.jpg', quality=60+i)
    frames = to_items([dict(image=str(tmp_path/f'{i}.jpg'), label=label) for i in range(30)])
    with pytest.raises(WorkbookError, match='near-duplicates of all these items'): evaluate(photo_run, frames, 'cpu')

def test_leave_source_out_refuses_photos_that_have_changed(tmp_path, photo_run):
    folder = tmp_path/'run'
    shutil.copytree(photo_run.path, folder)
    items = pd.read_csv(folder/'items.csv', dtype='string')
    items['sha256'] = '0'*64
    items['source'] = ['a','b']*(len(items)//2)+['a']*(len(items)%2)
    items.to_csv(folder/'items.csv', index=False)
    known = json.loads((folder/'training.json').read_text())
    known['sha256']['items.csv'] = sha256(folder/'items.csv')
    (folder/'training.json').write_text(json.dumps(known))
    with pytest.raises(WorkbookError, match='have changed or gone since'): leave_source_out(Run(folder), 'cpu')

def test_rules_that_are_gone_or_changed_are_said(tmp_path, caplog):
    items = from_table(_csv_of_words(tmp_path))
    items.attrs['rules'] = 'place: T\nbins: {A1: a, B1: b}\nrules: {glass: A1, tin c: B1, news: B1}\n'
    run = fit(items, get_recipe('text-tfidf'), tmp_path/'run', 'cpu')
    (run.path/'rules.yaml').write_text(items.attrs['rules'].replace('glass: A1','glass: B1'))
    with caplog.at_level('WARNING'): assert Run(run.path).rules['rules']['glass']=='B1'
    assert 'rules.yaml has changed' in caplog.text
    (run.path/'rules.yaml').unlink()
    with pytest.raises(WorkbookError, match='is gone, and its bins with it'): Run(run.path).rules

def _csv_of_words(folder):
    pd.concat([_table_of_words(60, 'train'),_table_of_words(30, 'valid'),_table_of_words(12, 'test')]).to_csv(folder/'w.csv', index=False)
    return folder/'w.csv'

def test_a_kill_between_two_files_of_figures_leaves_a_run_intact(tmp_path, photo_run, monkeypatch):
    from garbage_clf.train import checksums
    folder = tmp_path/'run'
    shutil.copytree(photo_run.path, folder)
    def killed(*_): raise KeyboardInterrupt
    monkeypatch.setattr(checksums.os, 'replace', killed)
    with pytest.raises(KeyboardInterrupt): checksums.add_figures(Run(folder), more=1)
    monkeypatch.undo()
    checksums.check_files(Run(folder))
