"Every recipe trains, and leaves every file that a run should have"
import pandas as pd, pytest, torch

from garbage_clf.data.sample import sample_items
from garbage_clf.models.registry import FROM_SCRATCH
from garbage_clf.train.evaluate import evaluate
from garbage_clf.train.fit import fit
from garbage_clf.train.model import create_model
from garbage_clf.train.recipe import FROM_SCRATCH_TEXT, modalities
from garbage_clf.train.recipe_change import change, load_recipe
from garbage_clf.train.recipes import RECIPES
from garbage_clf.train.run import Run, load_model
from garbage_clf.train.schedules import batchnorm_layers

FILES = {'confusion_matrix.csv', 'evaluation_results.csv', 'items.csv', 'labels.json', 'log.txt',
    'metrics.json', 'model.safetensors', 'recipe.json', 'training.json', 'training_losses.csv',
    'training_stats.csv'}
WITHOUT_WEIGHTS = ('efficientnet_b0','resnet50') # Theirs are on no package index
NAMES = [name for name,recipe in RECIPES.items() if name==recipe.name] # `best` is another name for one


@pytest.fixture(scope='module')
def few(): return sample_items().groupby(['label','split']).head(5).reset_index(drop=True)

@pytest.fixture(scope='module')
def bert(few, tmp_path_factory):
    "A small random BERT in a folder, in the place of MiniLM and DistilBERT"
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    from garbage_clf.data.text import train_tokenizer
    folder = tmp_path_factory.mktemp('bert')
    tok = train_tokenizer(few.text, min_frequency=1)
    config = BertConfig(vocab_size=tok.get_vocab_size(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32)
    BertModel(config).save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, pad_token='[PAD]', unk_token='[UNK]')
    fast.save_pretrained(folder)
    return str(folder)

def small_recipe(recipe, bert):
    "A recipe cut down to two epochs on small photos, with weights that are at hand"
    other = {}
    if recipe.text and recipe.text not in FROM_SCRATCH_TEXT: other = dict(text=bert)
    if recipe.model in WITHOUT_WEIGHTS: other = dict(pretrained=False)
    return change(recipe, epochs=2, head_epochs=min(recipe.head_epochs, 1), size=64, batch_size=16, **other)

def expected_files(recipe, bert):
    "Names of the files of a run"
    files = set(FILES)
    if recipe.text: files.add('tokenizer.json')
    if recipe.text==bert: files.add('text_config.json')
    return files

def check_files(run, recipe, bert):
    files = {p.name for p in run.path.iterdir() if not p.name.startswith('.')}
    has_bank = recipe.text!='tfidf' and recipe.model not in FROM_SCRATCH
    assert 'bank.safetensors' in files or not has_bank # Networks from scratch may have features of many thousand numbers
    assert files-{'bank.safetensors'}==expected_files(recipe, bert)
    assert load_recipe(run.path/'recipe.json')==recipe
    assert list(pd.read_csv(run.path/'training_losses.csv').columns)==['epoch','train_loss','val_loss']
    assert list(run.stats.columns)[:5]==['epoch','train_loss','train_accuracy','val_loss','val_accuracy']

def check_results(run, classes):
    "Results have their columns, and evaluating again gives the same probabilities"
    probabilities = [f'probability_{c}' for c in classes]
    assert list(run.results.columns)==['image','text','split','source','actual','predicted','ood_score',*probabilities,'state']
    _,results = evaluate(Run(run.path), device='cpu')
    probs = results[probabilities].values
    assert abs(probs.sum(1)-1).max()<1e-3
    assert abs(probs-run.results[probabilities].values).max()<.06

def check_batchnorm(run, classes):
    "Running statistics of pretrained BatchNorm are untouched where the recipe freezes them, changed elsewhere"
    recipe = run.recipe
    if not (recipe.model and recipe.pretrained): return
    before = batchnorm_layers(create_model(recipe, len(classes), True, run.text_processor))
    after = batchnorm_layers(load_model(run))
    same = [torch.equal(a.running_mean, b.running_mean) for a,b in zip(before, after, strict=True)]
    if recipe.frozen or recipe.freeze_norms: assert all(same)
    else: assert not any(same)

@pytest.mark.parametrize('name', NAMES)
def test_recipe(name, few, bert, tmp_path):
    recipe = small_recipe(RECIPES[name], bert)
    run = fit(few, recipe, tmp_path/'run', device='cpu')
    classes = sorted(few.label.unique())
    assert run.labels['modalities']==modalities(recipe)
    check_files(run, recipe, bert)
    check_results(run, classes)
    check_batchnorm(run, classes)
