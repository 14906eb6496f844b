"Every recipe trains, and leaves every file that a run should have"
import pandas as pd, pytest, torch

from garbage_clf.data.sample import sample_items
from garbage_clf.train.inputs import build
from garbage_clf.train.recipe import modalities
from garbage_clf.train.recipe import FROM_SCRATCH_TEXT
from garbage_clf.train.recipe_change import change, load_recipe
from garbage_clf.train.recipes import RECIPES
from garbage_clf.train.fit import fit
from garbage_clf.train.evaluate import evaluate
from garbage_clf.train.run import Run, load_model
from garbage_clf.train.schedules import batchnorm_layers

FILES = ['confusion_matrix.csv','evaluation_results.csv','items.csv','labels.json','last','log.txt','metrics.json','model.safetensors','recipe.json','training_losses.csv','training_stats.csv']
WITHOUT_WEIGHTS = ('efficientnet_b0','resnet50') # Theirs are on no package index


@pytest.fixture(scope='module')
def few(): return sample_items().groupby(['label','split']).head(5).reset_index(drop=True)

@pytest.fixture(scope='module')
def bert(few, tmp_path_factory):
    "A small random BERT in a folder, in the place of MiniLM and DistilBERT"
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    from garbage_clf.data.text import train_tokenizer
    folder,tok = tmp_path_factory.mktemp('bert'),train_tokenizer(few.text, least=1)
    BertModel(BertConfig(vocab_size=tok.get_vocab_size(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tok, pad_token='[PAD]', unk_token='[UNK]').save_pretrained(folder)
    return str(folder)

@pytest.mark.parametrize('name', [n for n,r in RECIPES.items() if n==r.name]) # `best` is another name for one
def test_recipe(name, few, bert, tmp_path):
    r = RECIPES[name]
    other = dict(pretrained=False) if r.model in WITHOUT_WEIGHTS else dict(text=bert) if r.text and r.text not in FROM_SCRATCH_TEXT else {}
    r = change(r, epochs=2, head_epochs=min(r.head_epochs, 1), size=64, batch_size=16, **other)
    run = fit(few, r, tmp_path/'run', device='cpu')
    files = set(FILES) | ({'tokenizer.json'} if r.text else set()) | ({'text_config.json'} if r.text==bert else set())
    assert {p.name for p in run.path.iterdir() if not p.name.startswith('.')}==files-({'last'} if r.text=='tfidf' else set()) # Solved in one go
    assert run.labels['modalities']==modalities(r)
    assert load_recipe(run.path/'recipe.json')==r
    assert list(pd.read_csv(run.path/'training_losses.csv').columns)==['epoch','train_loss','val_loss']
    assert list(run.stats.columns)[:5]==['epoch','train_loss','train_accuracy','val_loss','val_accuracy']
    classes = sorted(few.label.unique())
    assert list(run.results.columns)==['image','text','split','actual','predicted',*[f'probability_{c}' for c in classes]]
    _,results = evaluate(Run(run.path), device='cpu')
    probs = results.filter(like='probability_').values
    assert abs(probs.sum(1)-1).max()<1e-3 and abs(probs-run.results.filter(like='probability_').values).max()<.06
    if r.model and r.pretrained and (came := batchnorm_layers(build(r, len(classes), True, run.words))): # Left as they came, or not
        same = [torch.equal(a.running_mean, b.running_mean) for a,b in zip(came, batchnorm_layers(load_model(run)), strict=True)]
        assert all(same) if r.frozen or r.freeze_norms else not any(same)
