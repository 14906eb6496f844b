"Words, and words with photos, from the command line: the layouts of systems A and E, and what people get wrong"
import io, json
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from PIL import Image

from garbage_clf.cli import main
from garbage_clf.data.sample import sample_items
from garbage_clf.models.multimodal import Concat
from garbage_clf.train.run import Run


def cli(capsys, *words, code=0):
    got = main([str(w) for w in words])
    out,err = capsys.readouterr()
    assert got==code, err
    return out,err

def fails(capsys, says, *words):
    _,err = cli(capsys, *words, code=1)
    assert says in err.splitlines()[-1] and err.splitlines()[-1].startswith('error: ')

@pytest.fixture(scope='module')
def calgary(tmp_path_factory):
    "A small folder of the form that system A and Calgary's photos have: bins, words in the file names"
    root = tmp_path_factory.mktemp('calgary')
    for label,df in sample_items().groupby('label'):
        (root/label).mkdir()
        for i,r in enumerate(df[:24].itertuples()): Image.open(r.image).resize((64,64)).save(root/label/f'{r.text.replace(" ", "_")}_{i+1700}.png')
    return root

@pytest.fixture(scope='module')
def both(calgary, tmp_path_factory):
    "A run that takes photos and words"
    out = tmp_path_factory.mktemp('runs')/'both'
    assert main(f'train {calgary} --names --recipe multimodal-fast --set text=bow --size 64 --epochs 4 --device cpu --out {out}'.split())==0
    return out

@pytest.fixture(scope='module')
def words(tmp_path_factory):
    "A run that takes words alone"
    out = tmp_path_factory.mktemp('runs')/'words'
    assert main(f'train sample --recipe bow --epochs 2 --device cpu --out {out}'.split())==0
    return out

def test_calgary_layout(both):
    run = Run(both)
    assert run.labels['classes']==['Black','Blue','Green','TTR'] and run.labels['modalities']==['image','text']
    assert run.items.text.notna().all() and not run.items.text.str.contains(r'\d|_').any()
    assert set(run.metrics['modality_ablation'])=={'image','text'} and (both/'tokenizer.json').exists()
    assert 'What each modality contributes' in (both/'report.html').read_text() and (both/'plots/modalities.png').exists()

def test_system_a_has_the_sizes_of_its_drawing():
    a = Concat(1280, 768, 4)
    sizes = {n: tuple(m.weight.shape) for n,m in a.named_modules() if isinstance(m, (torch.nn.Linear,torch.nn.LayerNorm))}
    assert sizes=={'image.layers.0':(256,1280), 'image.layers.2':(256,), 'text.layers.0':(256,768), 'text.layers.2':(256,), 'fusion.1':(512,512), 'classifier':(4,512)}

def test_system_e_images(tmp_path, capsys):
    rng,rows = np.random.default_rng(0),[]
    for k,label in enumerate(('parrot','narwhal','axolotl')):
        for i in range(20):
            Image.fromarray((rng.random((40,40,3))*80+60*k).astype('uint8')).save(tmp_path/f'{label}{i}.png')
            rows.append(dict(image=f'{label}{i}.png', prompt=f'a photo of a {label} number {i}', label=label, label_idx=k))
    df = pd.DataFrame(rows).sample(frac=1, random_state=0)
    for s,part in dict(train=df[:36], val=df[36:48], test=df[48:]).items(): part.to_csv(tmp_path/f'{s}.csv', index=False)
    out,err = cli(capsys, 'train', tmp_path, '--recipe', 'mlp', '--size', 32, '--epochs', 2, '--device', 'cpu', '--out', tmp_path.parent/'e_images')
    assert 'column `prompt` is taken as the text' in err
    assert Run(tmp_path.parent/'e_images').labels['classes']==['axolotl','narwhal','parrot']
    out,err = cli(capsys, 'train', tmp_path, '--recipe', 'bow', '--epochs', 2, '--device', 'cpu', '--out', tmp_path.parent/'e_prompts')
    assert err.index('class named in text') < err.index('epoch 1 of 2')

@pytest.mark.parametrize('recipe', ['bow','lstm'])
def test_system_e_texts(tmp_path, capsys, recipe):
    rng = np.random.default_rng(1)
    say = lambda real: ' '.join(rng.choice(['city','council','report','budget','water'] if real else ['shock','secret','miracle','aliens','doctors'], 40))
    rows = [dict(article=f'{say(real)}\n{say(real)}', source='agency' if real else 'blog', label='real' if real else 'fake', label_idx=int(real)) for real in rng.random(90)<.5]
    pd.DataFrame(rows).to_csv(tmp_path/'news.csv', index=False)
    out,err = cli(capsys, 'train', tmp_path/'news.csv', '--recipe', recipe, '--epochs', 8, '--device', 'cpu', '--out', tmp_path/'run')
    assert 'target leakage: column source' in err and err.index('column source') < err.index('epoch 1 of 8')
    run = Run(tmp_path/'run')
    assert run.metrics['test']['accuracy']>.8 and run.labels['modalities']==['text']

def test_two_columns_as_one_text(tmp_path, capsys):
    df = sample_items().groupby('label').head(20)
    df.assign(caption='a thing')[['text','caption','label']].to_csv(tmp_path/'t.csv', index=False)
    cli(capsys, 'train', tmp_path/'t.csv', '--recipe', 'bow', '--epochs', 1, '--columns', 'text=text+caption', '--device', 'cpu', '--out', tmp_path/'run')
    assert Run(tmp_path/'run').items.text.str.endswith(' ; a thing').all()

def test_killed_training_of_words_goes_on(tmp_path):
    from fastai.callback.core import Callback
    from garbage_clf.train.fit import fit, resume_fit
    from garbage_clf.train.recipes import get_recipe
    few = sample_items().groupby(['label','split']).head(8).reset_index(drop=True)
    recipe = get_recipe('lstm', epochs=4, embedding_dim=8)
    class PowerCut(Callback):
        order = 90
        def before_epoch(self):
            self.learn.checkpoint.share = float('inf') # Save after each epoch, however short
            if self.epoch==2: raise RuntimeError('power cut')
    with pytest.raises(RuntimeError): fit(few, recipe, tmp_path/'cut', device='cpu', cbs=[PowerCut()])
    def metrics(run): return {k: v for k,v in run.metrics.items() if k!='seconds'}
    resumed = resume_fit(few, recipe, tmp_path/'cut', device='cpu')
    assert metrics(resumed)==metrics(fit(few, recipe, tmp_path/'straight', device='cpu'))

@pytest.mark.parametrize('text', ['cup '*100_000, '\U0001f34c\U0001f37a', 'קופסת פיצה', '紙袋 綺麗', 'cup\x00\x1b[31m\x07', 'qwertz uiop'], ids=['long','emoji','right to left','cjk','control','unknown'])
def test_any_words_are_answered(both, capsys, text):
    out,_ = cli(capsys, 'predict', both, '--text', text, '--json')
    one = json.loads(out)
    assert one['label'] in ('Black','Blue','Green','TTR') and abs(sum(one['probabilities'].values())-1)<1e-2
    if 'cup' not in text: assert one['note']=='no word of this text is in the vocabulary' and not one['confident']

def test_empty_text_is_named(both, capsys):
    out,err = cli(capsys, 'predict', both, '--text', '  ', '--json', code=1)
    assert json.loads(out)['error']=='neither a photo nor a text' and '1 of 1 items could not be predicted' in err

def test_words_from_standard_input(words, capsys, monkeypatch):
    lines = 'old phone\nclean paint tin\népluchure\n'.encode()
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(lines), encoding='cp1252')) # UTF-8, whatever the terminal's encoding
    out,_ = cli(capsys, 'predict', words, '--texts', '-', '--json')
    assert [json.loads(l)['text'] for l in out.splitlines()]==['old phone','clean paint tin','épluchure']

def test_table_with_missing_halves(both, calgary, tmp_path, capsys):
    photos = sorted(calgary.glob('Blue/*'))[:2]
    pd.DataFrame(dict(image=[photos[0],photos[1],None,None], text=['old phone',None,'clean paint tin',' '])).to_csv(tmp_path/'ask.csv', index=False)
    out,err = cli(capsys, 'predict', both, tmp_path/'ask.csv', '--json', code=1)
    got = [json.loads(l) for l in out.splitlines()]
    assert [('image' in g,'text' in g,'error' in g) for g in got]==[(True,True,False),(True,False,False),(False,True,False),(False,False,True)]

def test_wrong_modalities(words, both, calgary, tmp_path, capsys):
    photo = next(calgary.glob('Blue/*'))
    out,_ = cli(capsys, 'predict', words, photo, '--json', code=1)
    assert json.loads(out)['error']=='no text, and this run takes texts'
    cli(capsys, 'train', calgary, '--recipe', 'efficientnet-lite0-frozen', '--size', 64, '--epochs', 1, '--device', 'cpu', '--out', tmp_path/'photos')
    fails(capsys, 'this run takes photos alone', 'predict', tmp_path/'photos', photo, '--text', 'cup')
    fails(capsys, 'have no text: text recipes need one for each', 'train', calgary, '--recipe', 'bow', '--out', tmp_path/'x')
    fails(capsys, 'no item has a text: choose a recipe that takes photos alone', 'train', calgary, '--recipe', 'multimodal-fast', '--set', 'text=bow', '--out', tmp_path/'y')
    (tmp_path/'empty.txt').write_text('\n')
    fails(capsys, 'there is no text in', 'predict', both, '--texts', tmp_path/'empty.txt')

def test_rows_without_a_half_are_trained_on_and_counted(calgary, tmp_path, capsys):
    df = pd.DataFrame([dict(image=str(p), text=None if i%5==0 else p.stem.rsplit('_', 1)[0].replace('_', ' '), label=p.parent.name) for i,p in enumerate(sorted(calgary.glob('*/*')))])
    df.loc[(df.index%7==1)&(df.index%5!=0),'image'] = None
    df.to_csv(tmp_path/'items.csv', index=False)
    _,err = cli(capsys, 'train', tmp_path/'items.csv', '--recipe', 'multimodal-fast', '--set', 'text=bow', '--size', 64, '--epochs', 2, '--device', 'cpu', '--out', tmp_path/'run')
    assert f'{df.image.isna().sum()} of 96 items have no photo: the other modality is used alone' in err
    n = df.text.isna().sum()
    assert f'{n} of 96 items have no text: the other modality is used alone' in err
    run = Run(tmp_path/'run')
    assert len(run.items)==96 and len(run.results)==(run.items.split!='train').sum()

def test_unreadable_photo_with_words_is_an_error(both, tmp_path, capsys):
    (tmp_path/'bad.jpg').write_bytes(b'no')
    out,_ = cli(capsys, 'predict', both, tmp_path/'bad.jpg', '--text', 'cup', '--json', code=1)
    assert 'cannot read' in json.loads(out)['error']

def test_damaged_tokenizer(words, tmp_path, capsys):
    import shutil
    shutil.copytree(words, tmp_path/'run')
    (tmp_path/'run/tokenizer.json').write_text('{')
    fails(capsys, 'tokenizer.json', 'predict', tmp_path/'run', '--text', 'cup')
