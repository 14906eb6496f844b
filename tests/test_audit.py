"A corpus with every kind of trouble that we know of: each is found, named, and kept out of training; the clean sample raises no alarm"
import io, json, os, struct, subprocess, sys, zlib

import numpy as np, pandas as pd, pytest
from PIL import Image

from garbage_clf.cli import main
from garbage_clf.core import WorkbookError, write_text
from garbage_clf.data.audit import audit, broken
from garbage_clf.data.corrections import correct, read_corrections
from garbage_clf.data.sample import sample_items
from garbage_clf.data.folders import from_folder
from garbage_clf.data.items import to_items
from garbage_clf.data.tables import from_table

SAMPLE = sample_items()

def bomb():
    "A PNG of 60,000 x 60,000 pixels in 100 bytes"
    chunk = lambda kind, data: struct.pack('>I', len(data))+kind+data+struct.pack('>I', zlib.crc32(kind+data))
    return b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', struct.pack('>IIBBBBB', 60_000, 60_000, 8, 2, 0, 0, 0))+chunk(b'IDAT', zlib.compress(b'\0'*20))+chunk(b'IEND', b'')

def saved(im, kind, **options):
    im.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()

def damaged():
    "A PNG whose pixels have one flipped byte"
    content = bytearray(saved(Image.open(SAMPLE.image[9]), 'PNG'))
    content[len(content)//2] ^= 0xff
    return bytes(content)

def plant(root):
    "Two classes of good photos and one file of each kind of trouble; returns what should be found of each"
    good = [Image.open(p) for p in SAMPLE.image[:40]]
    whole,photo,turned = open(SAMPLE.image[50], 'rb').read(),Image.open(SAMPLE.image[51]),Image.Exif()
    turned[0x112] = 6
    odd = {'empty':('a.jpg',b''), 'not an image':('b.jpg',b'<html>'), 'truncated':('c.jpg',whole[:len(whole)*2//3]), 'damaged':('d.png',damaged()), 'too large':('e.png',bomb()),
        'animated':('f.gif', saved(good[0].rotate(9), 'GIF', save_all=True, append_images=good[1:3])), 'CMYK':('g.jpg', saved(Image.open(SAMPLE.image[52]).convert('CMYK'), 'JPEG')),
        'high bit depth':('h.png', saved(Image.fromarray((np.asarray(Image.open(SAMPLE.image[53]).convert('L')).astype('uint16')*257)), 'PNG')),
        'transparent':('i.png', saved(Image.open(SAMPLE.image[54]).convert('P'), 'PNG', transparency=0)), 'EXIF rotation':('j.jpg', saved(Image.open(SAMPLE.image[55]), 'JPEG', exif=turned)),
        'wrong ending':('k.jpg', saved(Image.open(SAMPLE.image[56]), 'PNG')), 'tiny':('l.png', saved(Image.open(SAMPLE.image[57]).resize((40,40)), 'PNG')),
        'long and narrow':('m.png', saved(Image.open(SAMPLE.image[58]).resize((900,120)), 'PNG')), 'almost black':('n.png', saved(Image.new('RGB', (99,99), (4,4,4)), 'PNG')),
        'almost white':('o.png', saved(Image.new('RGB', (99,99), 'white'), 'PNG')), 'one colour':('p.png', saved(Image.new('RGB', (99,99), (90,140,60)), 'PNG')),
        'blurred':('q.png', saved(photo.resize((16,16)).resize((192,192), Image.BICUBIC), 'PNG')), 'cut off':('s.jpg', whole[:len(whole)*2//3]+b'\xff\xd9'), 'huge':('r.jpg', saved(Image.open(SAMPLE.image[60]).resize((8000,6500)), 'JPEG'))}
    for i,im in enumerate(good):
        (root/('glass' if i%2 else 'metal')).mkdir(parents=True, exist_ok=True)
        im.save(root/('glass' if i%2 else 'metal')/f'good{i}.jpg', quality=92)
    for name,content in odd.values(): (root/'glass'/name).write_bytes(content)
    (root/'metal'/'gone.jpg').symlink_to('nowhere.jpg')
    (root/'metal'/'same_label.jpg').write_bytes((root/'metal'/'good0.jpg').read_bytes())
    (root/'metal'/'other_label.jpg').write_bytes((root/'glass'/'good1.jpg').read_bytes())
    good[2].resize((150,150)).transpose(Image.FLIP_LEFT_RIGHT).save(root/'metal'/'mirrored.jpg', quality=60)
    good[3].rotate(90).save(root/'metal'/'turned_other_label.png')
    for i in range(3): Image.open(SAMPLE.image[70+i]).save(mkdir(root/'Glass')/f'{i}.png')
    for i in range(2): Image.open(SAMPLE.image[80+i]).save(mkdir(root/'foam')/f'{i}.jpg')
    found = {kind: [f'glass/{name}'] for kind,(name,_) in odd.items()}
    return dict(found, missing=['metal/gone.jpg'], identical=['metal/good0.jpg','metal/same_label.jpg'], **{'identical, two labels':['glass/good1.jpg','metal/other_label.jpg'],
        'near-duplicates':['metal/good2.jpg','metal/mirrored.jpg'], 'near-duplicates, two labels':['glass/good3.jpg','metal/turned_other_label.png']})

def mkdir(path): path.mkdir(exist_ok=True); return path

def named(finding):
    "The files that a finding shows"
    columns = [c for c in ('image','image 2') if c in finding.rows]
    return sorted('/'.join(p.split('/')[-2:]) for p in pd.concat([finding.rows[c] for c in columns]))

@pytest.fixture(scope='module')
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp('planted')
    wanted = plant(root/'photos')
    with pytest.MonkeyPatch.context() as m:
        m.setattr('garbage_clf.data.fact_store.cache_dir', lambda *parts: root.joinpath('cache', *parts)) # What an older version found does not count
        return root,wanted,audit(from_folder(root/'photos'))


def test_files_are_found_completely(planted):
    _,wanted,found = planted
    for kind,files in wanted.items(): assert named(found[kind])==files, kind
    assert len(wanted)==24

def test_labels_are_found(planted):
    _,_,found = planted
    table = dict(found.table.set_index('kind').level)
    assert table['one class, several spellings']==table['class too small to train']=='error' and table['unequal classes']=='warning'

def test_nothing_else_is_found(planted):
    _,wanted,found = planted
    assert set(found.table.kind)-set(wanted)=={'one class, several spellings','class too small to train','unequal classes','few items of a class'}

def test_splits_texts_and_columns():
    "The kinds that are not about files: seven more, each alone"
    rng = np.random.default_rng(0)
    label = np.repeat(['real','fake'], 200)
    base = dict(text=[f'article {i}' for i in range(400)], label=label, split=np.array(['test','valid','train','train'])[np.arange(400)%4])
    kinds = lambda **changes: {f.kind for f in audit(to_items(pd.DataFrame(dict(base, **changes)))).findings}
    assert kinds()==set()
    assert kinds(source=np.where(rng.random(400)<.9, label, 'agency'))=={'target leakage: column source','source with one class'}
    assert kinds(text=[f'{i} says {l}' for i,l in enumerate(label)])=={'target leakage: class named in text'}
    assert kinds(text=[None, *base['text'][1:]])=={'no photo and no text'}
    assert kinds(text=['same',base['text'][1],'same',*base['text'][3:]], label=['fake',*label[1:]])=={'same text','same text, several labels','test texts also in train'}
    assert kinds(label=[None, *label[1:]])=={'no label'}
    assert kinds(split=[None, *base['split'][1:]])=={'incomplete split'}
    assert kinds(split=np.where(label=='real', 'train', base['split']))=={'class missing in test','class missing in valid','unequal splits'}
    assert kinds(split=np.where(label=='real', base['split'], 'test'))=={'class missing in train','class missing in valid','unequal splits'}
    assert kinds(label=['one']*400)=={'one class'}
    assert kinds(label=[pd.NA]*400)=={'no labels'}

def test_split_leaves_out_what_has_no_label(tmp_path):
    write_text(tmp_path/'t.csv', pd.DataFrame(dict(text=[f'word {i} of {i%7}' for i in range(40)]+[''], label=['a','b']*19+[None]*3)).to_csv(index=False))
    assert main(['split', str(tmp_path/'t.csv'), '--out', str(tmp_path/'items.csv')])==0
    assert len(from_table(tmp_path/'items.csv'))==38 and from_table(tmp_path/'items.csv').label.notna().all()
    assert pd.read_csv(tmp_path/'items.left-out.csv').reason.tolist()==['no label','no label','no photo and no text']

def test_what_photos_carry(tmp_path):
    "One class came as PNG, the other as JPEG: a model may learn that"
    for i,p in enumerate(SAMPLE.image[:60]):
        Image.open(p).save(mkdir(tmp_path/('glass' if i%2 else 'metal'))/f'{i}.{"png" if i%2 else "jpg"}', quality=90)
    assert {f.kind for f in audit(from_folder(tmp_path)).findings}=={'target leakage: photo format','target leakage: photo ending','few items of a class'}

def test_leaks(tmp_path):
    for i,p in enumerate(SAMPLE.image[:60]):
        im,part = Image.open(p),('train','valid','test')[i%3]
        place = tmp_path/part/('glass' if i%2 else 'metal')
        place.mkdir(parents=True, exist_ok=True)
        im.save(place/f'{i}.jpg')
        if i in (1,2): im.resize((170,170)).save(mkdir(tmp_path/'train'/('glass' if i%2 else 'metal'))/f'twin{i}.jpg')
    found = audit(from_folder(tmp_path))
    assert found['near-duplicates across train and test'].n==1 and found['near-duplicates across train and valid'].n==1
    assert [p.split('/')[-1] for p in found['near-duplicates across train and test'].rows['image 2']]==['twin2.jpg']

def test_no_false_alarm_on_the_sample():
    table = audit(SAMPLE).table
    assert set(table.level)=={'note'} and not table.kind.isin(['near-duplicates','identical']).any()


def test_nothing_broken_reaches_training(planted, capsys):
    root,wanted,found = planted
    assert main(['train', str(root/'photos'), '--recipe', 'efficientnet-lite0-frozen', '--out', str(root/'run')])==1
    unusable = {f for k in ('empty','not an image','truncated','damaged','too large','missing') for f in wanted[k]}
    assert {'/'.join(found.items.image[i].split('/')[-2:]) for i in broken(found).index}==unusable
    capsys.readouterr()
    assert main(['split', str(root/'photos'), '--out', str(root/'items.csv')])==0
    kept = from_table(root/'items.csv')
    assert not unusable & {'/'.join(p.split('/')[-2:]) for p in kept.image}
    lost = pd.read_csv(root/'items.left-out.csv')
    assert len(kept)+len(lost)==len(found.items) and lost.reason.notna().all() and len(lost)==len(unusable)+2
    assert main(['split', str(root/'photos'), '--out', str(root/'items.csv')])==1 and 'is there already' in capsys.readouterr().err

def test_command(planted, capsys):
    root,wanted,found = planted
    assert main(['audit', str(root/'photos'), '--out', str(root/'A')])==0
    out = capsys.readouterr().out
    for kind,files in wanted.items(): assert kind in out and files[0] in out
    saved = json.loads((root/'A'/'audit.json').read_text())
    assert {f['kind'] for f in saved['findings']}==set(found.table.kind)
    page = (root/'A'/'audit.html').read_text()
    assert page.count('data:image/jpeg') > 20 and '<script' not in page
    assert main(['audit', str(root/'photos'), '--strict'])==1
    assert main(['audit', 'sample', '--strict'])==0

def test_corrections_mend_what_they_propose(planted):
    root,_,found = planted
    found.save(root/'B')
    mended = audit(correct(from_folder(root/'photos'), read_corrections(root/'B'/'corrections.csv')))
    assert not set(mended.table.kind) & {'empty','not an image','truncated','damaged','too large','missing','identical','identical, two labels','one class, several spellings'}
    (root/'B'/'corrections.csv').write_text('image,text,label,action,reason\n')
    found.save(root/'B')
    assert (root/'B'/'corrections.csv').read_text().count('\n')==1 and (root/'B'/'corrections-proposed.csv').exists(), 'what a person has edited stays'

def test_one_file_in_two_rows(tmp_path):
    "Which of the labels is wrong, a person says; what the audit proposes can be applied"
    for i in range(6): Image.open(SAMPLE.image[i]).save(tmp_path/f'{i}.jpg')
    (tmp_path/'a.csv').write_text('image,label\n'+''.join(f'{i}.jpg,{"ab"[i%2]}\n' for i in range(6))+'0.jpg,b\n1.jpg,b\n')
    found = audit(from_table(tmp_path/'a.csv'))
    assert found['identical, two labels'].n==2 and found['listed twice'].n==2
    found.save(tmp_path/'A')
    assert len(correct(from_table(tmp_path/'a.csv'), read_corrections(tmp_path/'A'/'corrections.csv')))==6
    (tmp_path/'mine.csv').write_text('image,label,action\n0.jpg,b,drop\n')
    assert correct(from_table(tmp_path/'a.csv'), read_corrections(tmp_path/'mine.csv')).label.tolist()==list('abababb')
    assert main(['split', str(tmp_path/'a.csv'), '--corrections', str(tmp_path/'mine.csv'), '--out', str(tmp_path/'s.csv')])==0
    assert sorted(from_table(tmp_path/'s.csv').image.map(lambda p: p[-5:]))==[f'{i}.jpg' for i in range(6)]

def test_some_photos_are_not_there(tmp_path):
    "Names that were only guessed leave the words of those whose photos are missing, and their names"
    Image.open(SAMPLE.image[0]).save(mkdir(tmp_path/'Black')/'0.jpg')
    (tmp_path/'text.csv').write_text('label,filename,text\n'+''.join(f'Black,{i}.jpg,thing {i}\n' for i in range(9)))
    items = from_table(tmp_path/'text.csv')
    assert items.image.notna().sum()==1 and items.text.notna().all() and items.filename[3]=='3.jpg'
    assert not len(broken(audit(items)))

def test_two_runs_write_the_same(planted):
    root,_,_ = planted
    for n in 'CD': audit(from_folder(root/'photos')).save(root/n)
    for f in ('audit.json','audit.html','corrections.csv'): assert (root/'C'/f).read_bytes()==(root/'D'/f).read_bytes()

def test_left_out_is_not_overwritten(planted, capsys):
    root,_,_ = planted
    (root/'x.left-out.csv').write_text('precious')
    assert main(['split', str(root/'photos'), '--out', str(root/'x.csv')])==1
    assert (root/'x.left-out.csv').read_text()=='precious' and not (root/'x.csv').exists()
    assert main(['split', str(root/'photos'), '--out', str(root/'x.parquet')])==1 and main(['split', str(root/'photos'), '--out', str(root/'y.csv'), '--seed', '-1'])==1

def test_markup_in_names_is_text(tmp_path):
    "A file name is no place to hide a script"
    name = '<img src=x onerror=alert(1)>.jpg'
    for i in range(4): Image.open(SAMPLE.image[i]).save(mkdir(tmp_path/'a<b>')/f'{i}{name}')
    (tmp_path/'a<b>'/name).write_bytes(b'')
    found = audit(from_folder(tmp_path))
    assert '<img src=x' not in found._repr_html_() and '&lt;img src=x' in found._repr_html_()

def test_float_tiff_is_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).random((64,64)).astype('float32')).save(mkdir(tmp_path/'x')/'a.tif')
    assert audit(from_folder(tmp_path))['damaged'].n==1


def test_names_in_any_encoding(tmp_path):
    for i,n in enumerate(['été.jpg','垃圾.jpg','a b\tc.jpg','new\nline.jpg','Screenshot 1.05\u202fPM.jpg']): Image.open(SAMPLE.image[i]).save(mkdir(tmp_path/'x')/n)
    with open(os.fsencode(tmp_path/'x')+b'/caf\xe9.jpg', 'wb') as f: f.write(b'x')
    items = from_folder(tmp_path)
    assert len(items)==5
    from garbage_clf.data.items import write_table
    write_table(items, tmp_path/'items.csv')
    assert from_table(tmp_path/'items.csv').image.tolist()==items.image.tolist()
    assert 'damaged' not in audit(items).table.kind.tolist()

def test_symlink_loops(tmp_path):
    Image.open(SAMPLE.image[0]).save(mkdir(tmp_path/'x')/'a.jpg')
    (tmp_path/'x'/'loop').symlink_to(tmp_path)
    (tmp_path/'x'/'self.jpg').symlink_to('self.jpg')
    assert len(from_folder(tmp_path))==2
    assert audit(from_folder(tmp_path))['unreadable'].n==1

def test_climbing_csv(tmp_path):
    (tmp_path/'a.csv').write_text('image,label\n../../etc/passwd,x\n')
    with pytest.raises(WorkbookError, match='1 photos lie outside of'): from_table(tmp_path/'a.csv')
    assert from_table(tmp_path/'a.csv', photos='/').image[0]=='/etc/passwd'

MILLION = '''
import resource, sys
from garbage_clf.data.tables import from_table
items = from_table(sys.argv[1], image='')
print(len(items), items.label.nunique(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)
'''

def test_a_million_rows(tmp_path):
    "In pieces, in bounded memory: the table itself is about 150 MB, and what reading it adds is less than the file twice over"
    line = 'plastic bottle number {},Blue,a caption that somebody wrote about it\n'
    with open(tmp_path/'big.csv', 'w') as f:
        f.write('text,label,caption\n')
        for i in range(0, 1_000_000, 1000): f.write(''.join(line.format(i+j) for j in range(1000)))
    got = subprocess.run([sys.executable, '-c', MILLION, str(tmp_path/'big.csv')], capture_output=True, text=True, check=True)
    n,labels,mb = map(int, got.stdout.split())
    assert (n,labels)==(1_000_000,1) and mb<1500

def test_a_mistake_in_a_late_row(tmp_path):
    with open(tmp_path/'big.csv', 'w') as f: f.write('text,label\n'+'a,b\n'*150_000+'a,b,c\n')
    with pytest.raises(WorkbookError, match='150002|more cells than the header'): from_table(tmp_path/'big.csv')
