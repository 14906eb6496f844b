"""How memory and time grow with the number of photos: audit, cache, loader and training step.

python tools/million.py FOLDER CSV 10000 100000 1000000

draws that many small photos (32 pixels, 1 % exact copies) below FOLDER, unless they are there, and adds a row for
each part to the CSV. Each number of photos has processes and a cache of its own. Memory is what the process holds of
its own (RssAnon), at its highest; mapped files are not in it. A million photos take 4 GB of disk and half an hour."""
import os, re, shutil, subprocess, sys, tempfile, threading, time
from io import BytesIO
from itertools import chain, islice, repeat
from pathlib import Path

CLASSES = ('glass','metal','paper','plastic','trash')

def draw_photos(n, root):
    "Write n small JPEGs, 1 % of them copies of the one before"
    import numpy as np
    from PIL import Image
    rng,content = np.random.default_rng(0),b''
    for i in range(n):
        folder = root/CLASSES[i%5]/f'{i//5000:04}'
        folder.mkdir(parents=True, exist_ok=True)
        if i%100!=50:
            coarse = Image.fromarray(rng.integers(0, 256, (8,8,3), dtype='uint8'))
            out = BytesIO()
            coarse.resize((32,32), Image.BICUBIC).save(out, 'JPEG', quality=85)
            content = out.getvalue()
        (folder/f'{i:07}.jpg').write_bytes(content)

class Meter:
    "Seconds, and the highest memory, of each part"
    def __init__(self):
        self.rows = []
        self.peak = 0
        threading.Thread(target=self._watch, daemon=True).start()
        self.began = time.perf_counter()

    def memory(self): return int(re.search(r'RssAnon:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024

    def _watch(self):
        while True:
            self.peak = max(self.peak, self.memory())
            time.sleep(.02)

    def lap(self, part, n):
        now = time.perf_counter()
        self.rows.append(dict(photos=n, part=part, seconds=round(now-self.began, 1), peak_MB=round(max(self.peak, self.memory()))))
        print(self.rows[-1], flush=True)
        self.peak = 0
        self.began = time.perf_counter()

def measure_audit(folder):
    "Read a folder, audit it, save what was found"
    from garbage_clf.analysis.report import report # What a program has loaded that does more than that
    from garbage_clf.data.audit import audit
    from garbage_clf.data.folders import from_folder
    meter = Meter()
    items = from_folder(folder)
    meter.lap('read the folder', len(items))
    found = audit(items)
    meter.lap('audit', len(items))
    with tempfile.TemporaryDirectory() as d:
        str(found)
        found.save(d)
    meter.lap('print and save the findings', len(items))
    return meter.rows

def measure_training(folder):
    "Decode into the cache, make loaders, read an epoch, train for 300 steps"
    import numpy as np, torch
    from garbage_clf.data.folders import from_folder
    from garbage_clf.data.inputs import ModelInputs
    from garbage_clf.data.loaders import tensor_loaders
    from garbage_clf.data.pixels import photo_pixels
    from garbage_clf.models.registry import build_model
    net = build_model('cnn_small', 5, False, 32)
    opt = torch.optim.Adam(net.parameters())
    def step(photos, y):
        opt.zero_grad()
        torch.nn.functional.cross_entropy(net(photos), y).backward()
        opt.step()
    step(torch.zeros(64, 3, 32, 32, dtype=torch.uint8), torch.zeros(64, dtype=torch.long))
    meter = Meter()
    items = from_folder(folder)
    meter.lap('read the folder, to train', len(items))
    photos,_ = photo_pixels(items.image, 32)
    meter.lap('decode into the cache', len(items))
    y = torch.from_numpy(items.label.astype('category').cat.codes.to_numpy('int64'))
    split = np.where(np.arange(len(items))%10==0, 'valid', 'train')
    loaders = tensor_loaders(ModelInputs(photos), y, split, 64)
    for _ in loaders.train: pass
    meter.lap('loaders, and an epoch of batches', len(items))
    epochs = chain.from_iterable(repeat(loaders.train))
    for batch in islice(epochs, 300): step(*batch)
    meter.lap('300 training steps', len(items))
    return meter.rows

def main(root, csv, *counts):
    import pandas as pd
    for n in map(int, counts):
        folder,cache = Path(root)/f'{n}-photos',Path(root)/f'{n}-cache'
        if not folder.exists(): draw_photos(n, folder)
        shutil.rmtree(cache, ignore_errors=True)
        for what in ('audit','training'):
            subprocess.run([sys.executable, __file__, what, folder, csv], env=dict(os.environ, GARBAGE_CLF_CACHE=str(cache)), check=True)
    print(pd.read_csv(csv))

if __name__=='__main__':
    if sys.argv[1] not in ('audit','training'): main(*sys.argv[1:])
    else:
        rows = (measure_audit if sys.argv[1]=='audit' else measure_training)(sys.argv[2])
        import pandas as pd
        known = [pd.read_csv(sys.argv[3])] if Path(sys.argv[3]).exists() else []
        pd.concat([*known,pd.DataFrame(rows)]).to_csv(sys.argv[3], index=False)
