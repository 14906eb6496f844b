"""How far the losses of two processes are from those of one with the same batches, and how far one and two threads are apart.

python tools/processes.py CSV   trains each recipe four times on the sample, and writes a row for each"""
import os, subprocess, sys, tempfile
from pathlib import Path

import pandas as pd

RECIPES = {
    'bag of words and frozen photos':'multimodal-fast --set text=bow,tokenizer=bpe --size 96 --epochs 10',
    'head on a frozen network':'efficientnet-lite0-frozen --size 96 --epochs 10',
    'CNN from scratch':'cnn-small --size 64 --epochs 5 --set precision=f32',
    'EfficientNet-B0 from scratch, in two stages':'efficientnet-two-stage --size 64 --epochs 4 --pretrained false '
        '--set mix=none,head_epochs=2,precision=f32',
    'EfficientNet-Lite0, fine-tuned':'efficientnet-lite0 --size 64 --epochs 3 --set precision=f32'}
WAYS = {'one':('2',''), 'again':('2',''), 'one thread':('1',''), 'two processes':('1','--processes 2 --sync-norms')}

def losses(recipe, way, out):
    "Training and validation losses of a training in one of the ways"
    threads,options = WAYS[way]
    words = f'train sample --recipe {recipe} --device cpu {options} --out {out}'.split()
    env = dict(os.environ, OMP_NUM_THREADS=threads)
    subprocess.run([sys.executable, '-m', 'garbage_clf.cli', *words], env=env, check=True, capture_output=True)
    return pd.read_csv(Path(out)/'training_losses.csv').drop(columns='epoch')

def main(csv):
    rows = []
    for what,recipe in RECIPES.items():
        with tempfile.TemporaryDirectory() as d:
            found = {way: losses(recipe, way, f'{d}/{i}') for i,way in enumerate(WAYS)}
        one = found.pop('one')
        row = dict(training=what, epochs=len(one))
        for way,other in found.items(): row[way] = float((other/one-1).abs().max().max())
        rows.append(row)
        print(row, flush=True)
        pd.DataFrame(rows).to_csv(csv, index=False, float_format='%.2g')

if __name__=='__main__': main(sys.argv[1])
