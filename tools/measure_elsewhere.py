"""Measure recipes, adapting and suggesting on photos from other places, for the study `660_study.elsewhere`

    python tools/measure_elsewhere.py TACO/items.csv ELSEWHERE [--run RUN [--shares]]

Trains on TrashNet and TACO and measures on `shop`, `web` and `unknown` of the folder ELSEWHERE. Nothing is chosen by what
it measures. Writes nbs/results/elsewhere-*.csv. With --run it measures that finished run of the recipe robust instead, which
takes hours to train: `garbage-clf train trashnet+TACO/items.csv --recipe robust --out RUN`. With --shares as well it averages
the backbone of a run, trained with `--set wise_ft=0`, with its pretrained weights in several shares.
"""
import argparse, tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from garbage_clf.calibration import aurc, conformal_threshold, prediction_sets
from garbage_clf.data.folders import from_photos
from garbage_clf.data.inputs import ModelInputs
from garbage_clf.data.read import read_items
from garbage_clf.metrics import ece
from garbage_clf.models.features import Extractor, photo_features
from garbage_clf.models.registry import make_backbone
from garbage_clf.train.known import known_items
from garbage_clf.train.fit import fit
from garbage_clf.train.linear_head import fit_linear_head, refit_head
from garbage_clf.train.outputs import network_outputs
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.run import Run, load_model
from garbage_clf.train.trust import states
from garbage_clf.train.weight_average import average_weights
from garbage_clf.use.suggest import choose_photos

RESULTS = Path(__file__).parents[1]/'nbs'/'results'
RECIPES = [('efficientnet-lite0-frozen',{}),('mobilenet-frozen',{}),('robust-frozen',{})]

class Place:
    "Photos of one place as features of a run's backbone, with labels"
    def __init__(self, run, model, folder):
        self.images = from_photos(folder).image.tolist()
        self.labels = np.array([Path(p).parent.name for p in self.images])
        f,_ = photo_features(Extractor(model.backbone, run.recipe.size, 'cpu', 64, run.recipe.tta), self.images)
        views = [network_outputs(model.head, ModelInputs(f[:,v]), run.trust.banks) for v in range(run.recipe.tta)]
        views[0].probs = sum(v.probs for v in views)/len(views)
        self.features = f[:,0].numpy()
        self.probs,self.score = run.trust.calibrated(views[0]),run.trust.ood_score(views[0])

def row(predicted, actual, confidence, score, threshold):
    "Accuracy, calibration and states of one set"
    right = np.asarray(predicted)==np.asarray(actual)
    state = states(confidence, score, threshold)
    sure = state=='confident'
    return dict(n=len(right), right=right.sum(), ece=ece(confidence, right), aurc=aurc(confidence, right),
        confident=sure.sum(), right_when_confident=right[sure].sum(), unfamiliar=(state=='unfamiliar').sum())

def run_rows(run, places):
    "A row for each set"
    classes,threshold = np.array(run.labels['classes']),run.labels['threshold']
    test = run.results[run.results.split=='test']
    for source,r in test.groupby('source'):
        yield source,row(r.predicted, r.actual, r.filter(like='probability_').max(axis=1), r.ood_score, threshold)
    for name,p in places.items():
        yield name,row(classes[p.probs.argmax(1)], p.labels, p.probs.max(1), p.score, threshold)

def measure_run(path, elsewhere):
    "A row for each place, for a run that is there already"
    run = Run(path)
    model = load_model(run)
    places = {p: Place(run, model, Path(elsewhere)/p) for p in ('shop','web','unknown')}
    rows = [dict(recipe=run.recipe.name, seed=run.recipe.seed, valid=run.metrics['valid']['accuracy'], place=place, **values)
        for place,values in run_rows(run, places)]
    return pd.DataFrame(rows)

def measure_shares(path, elsewhere):
    "Right answers by the share of pretrained weights, with the head of the run and with one that is fitted anew"
    run = Run(path)
    model,items,classes = load_model(run),run.items,np.array(run.labels['classes'])
    pretrained = make_backbone(run.recipe.model, True, run.recipe.size)
    photos = {p: from_photos(Path(elsewhere)/p).image.tolist() for p in ('shop','web')}
    actual = {p: [Path(image).parent.name for image in photos[p]] for p in photos}
    for source in ('trashnet','taco'):
        test = items[(items.split=='test') & (items.source==source)]
        photos[source],actual[source] = test.image.tolist(),test.label.tolist()
    train = items[items.split=='train']
    rows = []
    def features(net, images): return photo_features(Extractor(net, run.recipe.size, 'cpu', 64), images)[0][:,0]
    for share in (0,.25,.5,.75,1):
        net = deepcopy(model.backbone)
        average_weights(net, pretrained, share)
        head = fit_linear_head(features(net, train.image.tolist()), train.label.map(classes.tolist().index).to_numpy())
        for place in photos:
            f = features(net, photos[place])
            with torch.inference_mode(): scores = dict(right=head(f), right_old_head=model.head(f))
            hits = {k: int((classes[v.argmax(1)]==np.array(actual[place])).sum()) for k,v in scores.items()}
            rows.append(dict(share=share, place=place, n=len(f), **hits))
    return pd.DataFrame(rows)

def measure_recipes(items, elsewhere, folder):
    "Every recipe with three seeds; the run of robust-frozen with seed 42, and its places"
    rows = []
    for (name,changes),seed in [(r,s) for r in RECIPES for s in (1,2,42)]:
        run = fit(items, get_recipe(name, seed=seed, **changes), f'{folder}/{name}-{seed}', 'cpu')
        model = load_model(run)
        places = {p: Place(run, model, Path(elsewhere)/p) for p in ('shop','web','unknown')}
        for place,values in run_rows(run, places):
            rows.append(dict(recipe=name, seed=seed, valid=run.metrics['valid']['accuracy'], place=place, **values))
        print(pd.DataFrame(rows[-5:]).round(3).to_string(index=False), flush=True)
    return pd.DataFrame(rows),run,model,places

def rest_accuracy(known, place, chosen):
    "Accuracy on the other photos of a place, and on the old test photos, after adapting"
    y = np.array([known.classes.index(l) for l in place.labels])
    head = refit_head(known.training, (place.features[chosen],y[chosen]), len(known.classes))
    rest = np.setdiff1d(np.arange(len(y)), chosen)
    test = (known.items.split.eq('test') & known.items.source.eq('trashnet')).to_numpy(dtype=bool)
    with torch.inference_mode():
        new = head(torch.from_numpy(place.features[rest])).argmax(1).numpy()==y[rest]
        old = head(torch.from_numpy(known.features[test])).argmax(1).numpy()==known.numbers(known.items.label[test])
    return dict(rest=new.mean(), n_rest=len(rest), old_test=old.mean(), n_old=len(old))

def measure_adapt(known, shop):
    "10 and 20 photos of each class, five draws"
    rows = []
    for n in (10,20):
        for draw in range(5):
            rng = np.random.default_rng(draw)
            chosen = np.concatenate([rng.choice(np.flatnonzero(shop.labels==c), n, replace=False) for c in sorted(set(shop.labels))])
            rows.append(dict(per_class=n, draw=draw, **rest_accuracy(known, shop, chosen)))
    return pd.DataFrame(rows)

def measure_suggest(known, shop):
    "Suggested against random photos, five draws"
    rows = []
    for n in (10,20,40):
        for draw in range(5):
            ways = dict(random=np.random.default_rng(draw).choice(len(shop.labels), n, replace=False),
                suggested=np.array(choose_photos(shop.features, shop.probs, n, seed=draw)))
            for way,chosen in ways.items(): rows.append(dict(photos=n, draw=draw, way=way, **rest_accuracy(known, shop, chosen)))
    return pd.DataFrame(rows)

def measure_sets(run):
    "Coverage of 90 % prediction sets on TrashNet's test photos, over 100 random halves"
    r = run.results[(run.results.source=='trashnet') & (run.results.split=='test')]
    probs,actual = r.filter(like='probability_').to_numpy(),r.actual.map(run.labels['classes'].index).to_numpy()
    rows = []
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(len(r))
        fit_,check = order[:len(r)//2],order[len(r)//2:]
        sets = prediction_sets(probs[check], conformal_threshold(probs[fit_], actual[fit_]))
        rows.append(dict(split=seed, covered=sets[np.arange(len(check)),actual[check]].mean(), size=sets.sum(1).mean()))
    return pd.DataFrame(rows)

def save(**tables):
    "Write nbs/results/elsewhere-*.csv"
    for name,table in tables.items():
        table.round(6).to_csv(RESULTS/f'elsewhere-{name}.csv', index=False)
        print(table.round(3).to_string() if len(table)<10 else table.describe().round(3).to_string())

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('taco')
    parser.add_argument('elsewhere')
    parser.add_argument('--run')
    parser.add_argument('--shares', action='store_true')
    args = parser.parse_args()
    if args.shares: return save(shares=measure_shares(args.run, args.elsewhere))
    if args.run: return save(robust=measure_run(args.run, args.elsewhere))
    items = read_items(f'trashnet+{args.taco}')
    with tempfile.TemporaryDirectory() as folder:
        rows,run,model,places = measure_recipes(items, args.elsewhere, folder)
        classes = run.labels['classes']
        known = known_items(run, model, classes)
        save(recipes=rows, adapt=measure_adapt(known, places["shop"]),
            suggest=measure_suggest(known, places["shop"]), sets=measure_sets(run))

if __name__=='__main__': main()
