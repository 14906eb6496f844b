"""Hostile and damaged inputs: each ends in a right answer or in one clean error

    python tools/fuzz.py 100000 --seed 1

The suite runs two thousand of them. A case is made from the seed and its number alone, so that it can be made again.
"""
import argparse, io, json, random, resource, shutil, sys, tempfile, time, warnings
from collections import Counter
from pathlib import Path

import numpy as np
from fastcore.xtras import modified_env
from PIL import Image

from garbage_clf.bins import read_rules
from garbage_clf.cache import cache_dir
from garbage_clf.core import WorkbookError, log
from garbage_clf.data.corrections import correct, read_corrections
from garbage_clf.data.fact_store import DATABASE
from garbage_clf.data.facts import photo_facts, read_facts
from garbage_clf.data.images import load_image
from garbage_clf.data.read import read_items
from garbage_clf.data.sample import sample_items
from garbage_clf.data.store import Store
from garbage_clf.data.tables import from_table
from garbage_clf.train.fit import fit
from garbage_clf.train.recipe_change import load_recipe
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.run import Run, load_model
from garbage_clf.use.card import card
from garbage_clf.use.predict import predict

ODD = [None, True, False, -1, 0, 1.5, 1e308, float('nan'), '', ' ', 'x'*300, '\x00', '\x1b[2K', '\ud800', '=1+1', '$x$', '%%',
    '<img src=x onerror=alert(1)>', '../../etc/passwd', '🗑️', 'ÿ', [], {}, [[[]]], {'a':{'b':[1]}}, ['x'], [1,None], 2**70]


# Mutations

def damage(rng, content):
    "Bytes with a part flipped, removed, repeated or replaced"
    content = bytearray(content)
    for _ in range(rng.choice([1,1,2,8,40])):
        if not content: break
        at = rng.randrange(len(content))
        kind = rng.randrange(5)
        if kind==0: content[at] ^= 1<<rng.randrange(8)
        if kind==1: del content[at:at+rng.choice([1,4,50,500])]
        if kind==2: content[at:at] = content[at:at+rng.choice([1,20,300])]
        if kind==3: content[at:at+1] = rng.choice([b'\0',b'\xff',b'"',b',',b'\n',b'\r',b"'",b'{',b'[',b':',b'\xf0\x9f'])
        if kind==4: content = content[:at]
    return bytes(content)

def places(data, path=()):
    "Paths of all values of a JSON document"
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key,value in items: yield from places(value, (*path,key))

def swap_value(rng, data):
    "A JSON document with one value replaced or removed"
    data = json.loads(json.dumps(data))
    *before,last = rng.choice([p for p in places(data) if p])
    parent = data
    for key in before: parent = parent[key]
    if rng.random()<.3: del parent[last]
    else: parent[last] = rng.choice(ODD)
    return data

def damaged_json(rng, path):
    "A JSON file with damage to its text or its values"
    if rng.random()<.3: return damage(rng, path.read_bytes())
    data = json.loads(path.read_text())
    for _ in range(rng.choice([1,1,3])): data = swap_value(rng, data)
    return json.dumps(data, ensure_ascii=rng.random()<.5).encode('utf-8', 'surrogatepass')

def odd_text(rng):
    "A short text, often strange"
    if rng.random()<.5: return rng.choice(['glass','metal','a.jpg','sub/b.png','train','1',''])
    if rng.random()<.5: return str(rng.choice(ODD))
    return ''.join(chr(rng.randrange(1, 0x2fff)) for _ in range(rng.randrange(12)))


# Cases: each returns a function that makes use of one input

class Cases:
    "All kinds of cases, in a folder of their own"
    def __init__(self, folder):
        self.folder = Path(folder)
        self.items = sample_items(150).groupby(['label','split']).head(6)
        self.run = fit(self.items, get_recipe('text-tfidf'), self.folder/'run', device='cpu')
        self.photo = Path(self.items.image.iloc[0]).read_bytes()
        self.facts = photo_facts(self.items[:6])

    def case_run_file(self, rng):
        "A run with one damaged file"
        copy = self.folder/'copy'
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.run.path, copy)
        names = ['labels.json','metrics.json','recipe.json','training.json','items.csv','evaluation_results.csv',
            'training_stats.csv','tokenizer.json','model.safetensors']
        path = copy/rng.choice(names)
        content = damaged_json(rng, path) if path.suffix=='.json' else damage(rng, path.read_bytes())
        path.write_bytes(content)
        run = Run(copy)
        for name in ('labels','metrics','recipe','training','items','results','stats'): getattr(run, name)
        load_model(run)
        predict(run, text='greasy pizza box')
        card(run, 'fuzz')

    def case_rules(self, rng):
        "Rules in YAML"
        text = 'place: X\nbins: {Blue: packaging, Black: rest}\nrules: {glass: Blue, metal: Blue, trash: Black}\n'
        extra = ['- a','!!int x','!!python/object:os.system {}','2026-99-99: x','*a','&a [*a]','{'*900,'["'*50,'? x','%YAML 9']
        if rng.random()<.3: text += rng.choice(extra)
        path = self.folder/'rules.yaml'
        path.write_bytes(damage(rng, text.encode()) if rng.random()<.8 else text.encode())
        read_rules(path)

    def case_table(self, rng):
        "A table, as CSV, TSV, JSON lines or something else under that name"
        header = rng.sample(['label','split','group','is_valid','filename','x','',odd_text(rng)], rng.randrange(6))
        header += rng.choice([['image'],['text'],['image','text'],[odd_text(rng)]])
        rows = [header]+[[odd_text(rng) for _ in range(max(1, len(header)+rng.choice([0]*20+[1,-1])))] for _ in range(rng.randrange(6))]
        sep = rng.choice([',',';','\t','|'])
        content = '\n'.join(sep.join(row) for row in rows).encode('utf-8', 'replace')
        if rng.random()<.2: content = '\n'.join(json.dumps(dict(zip(header, r))) for r in rows[1:]).encode()
        if rng.random()<.4: content = damage(rng, content)
        path = self.folder/('table'+rng.choice(['.csv']*6+['.tsv','.txt','.jsonl','.parquet']))
        path.write_bytes(content)
        if rng.random()<.3: correct(self.items, read_corrections(path))
        else: from_table(path)

    def case_image(self, rng):
        "A photo with damage, or of a strange kind"
        kind = rng.choice(['JPEG','PNG','GIF','BMP','TIFF','WEBP','PPM'])
        size = rng.choice([(1,1),(7,3),(300,2),(64,64)])
        mode = rng.choice(['RGB','L','1','P','RGBA','CMYK','I;16','LA'])
        buffer = io.BytesIO()
        try: Image.new(mode, size).save(buffer, kind)
        except (OSError,ValueError,KeyError): Image.new('RGB', size).save(buffer, kind)
        content = damage(rng, self.photo if rng.random()<.4 else buffer.getvalue())
        read_facts(content)
        load_image(content, 32)

    def case_folder(self, rng):
        "A folder with strange names"
        folder = self.folder/'tree'
        shutil.rmtree(folder, ignore_errors=True)
        for _ in range(rng.randrange(1, 6)):
            parts = [rng.choice(['train','test_set','glass','Glass','metal','val',odd_text(rng)]) for _ in range(rng.randrange(4))]
            path = folder.joinpath(*(p.replace('/', '_').replace('\0', '')[:80].strip('.') or 'x' for p in parts))
            try:
                path.mkdir(parents=True, exist_ok=True)
                (path/rng.choice(['a.jpg','b','c.txt','d.csv','é.png'])).write_bytes(self.photo if rng.random()<.8 else b'')
            except (OSError,UnicodeEncodeError): continue
        folder.mkdir(exist_ok=True)
        read_items(folder)

    def case_recipe(self, rng):
        "A recipe file"
        path = self.folder/'recipe.json'
        path.write_bytes(damaged_json(rng, self.run.path/'recipe.json'))
        load_recipe(path)

    def case_cache(self, rng):
        "A cache with damage: the rows that come back are right whatever happened to it"
        digests,expected = list('abcdef'),np.arange(60, dtype='uint8').reshape(6, 10)
        def make(positions): yield positions,expected[positions]
        store = Store('fuzz', (10,))
        store.fill(digests, make)
        path = rng.choice(store.files)
        path.write_bytes(damage(rng, path.read_bytes()))
        rows,at = store.fill(digests, make)
        assert (rows[at]==expected).all(), 'a damaged row was taken for a good one'

    def case_facts(self, rng):
        "A database of facts about photos with damage, likewise"
        path,photos = cache_dir(DATABASE),self.items[:6]
        if not path.exists() or rng.random()<.1: photo_facts(photos)
        if path.exists(): path.write_bytes(damage(rng, path.read_bytes()))
        assert photo_facts(photos).equals(self.facts), 'a damaged row was taken for a good one'

    def case_given(self, rng):
        "Something given to `predict`"
        x = rng.choice([*ODD, b'', self.photo[:99], np.zeros((2,3)), np.ones((1,2,3,4)), 5, object(), Path('x')])
        if rng.random()<.5: predict(self.run, text=x)
        else: predict(self.run, [x])


def run_cases(n, seed=0, slowest=5.):
    "Run `n` cases; outcomes by kind, and what went wrong as (kind, number, error)"
    warnings.simplefilter('ignore')
    log.disabled = True
    outcomes,wrong = Counter(),[]
    with tempfile.TemporaryDirectory() as folder, modified_env(GARBAGE_CLF_CACHE=folder):
        cases = Cases(folder)
        kinds = sorted(name for name in dir(cases) if name.startswith('case_'))
        for i in range(n):
            rng = random.Random(f'{seed} {i}')
            kind = kinds[i%len(kinds)]
            start = time.time()
            try:
                getattr(cases, kind)(rng)
                outcomes[kind,'answer'] += 1
            except WorkbookError as e:
                outcomes[kind,'error'] += 1
                if not str(e).strip(): wrong.append((kind,i,'an error without words'))
            except (KeyboardInterrupt,SystemExit): raise
            except BaseException as e: wrong.append((kind,i,f'{type(e).__name__}: {str(e)[:120]}'))
            if time.time()-start>slowest: wrong.append((kind,i,f'{time.time()-start:.0f} s'))
    log.disabled = False
    return outcomes,wrong


if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('n', type=int, help='Number of cases')
    parser.add_argument('--seed', type=int, default=0, help='Another seed gives other cases')
    args = parser.parse_args()
    start = time.time()
    outcomes,wrong = run_cases(args.n, args.seed)
    for (kind,outcome),count in sorted(outcomes.items()): print(f'{kind:15} {outcome:7} {count}')
    print(f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6:.1f} GB of memory at most, {time.time()-start:.0f} s')
    for kind,i,what in wrong[:50]: print(f'{kind} {i}: {ascii(what)}')
    sys.exit(bool(wrong))
