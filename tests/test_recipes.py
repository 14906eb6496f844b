"Every recipe trains, and leaves every file that a run should have"
import pandas as pd, pytest

from garbage_clf.data.sample import sample_items
from garbage_clf.train.recipes import RECIPES, change, load_recipe
from garbage_clf.train.run import Run, evaluate, fit

FILES = ['confusion_matrix.csv','evaluation_results.csv','items.csv','labels.json','last','log.txt','metrics.json','model.safetensors','recipe.json','training_losses.csv','training_stats.csv']
WITHOUT_WEIGHTS = ('efficientnet_b0','resnet50') # Theirs are on no package index


@pytest.fixture(scope='module')
def few(): return sample_items().groupby(['label','split']).head(5).reset_index(drop=True)

@pytest.mark.parametrize('name', RECIPES)
def test_recipe(name, few, tmp_path):
    r = RECIPES[name]
    r = change(r, epochs=2, head_epochs=min(r.head_epochs, 1), size=64, batch_size=16, **({'pretrained':False} if r.model in WITHOUT_WEIGHTS else {}))
    run = fit(few, r, tmp_path/'run', device='cpu')
    assert sorted(p.name for p in run.path.iterdir() if not p.name.startswith('.'))==FILES
    assert load_recipe(run.path/'recipe.json')==r
    assert list(pd.read_csv(run.path/'training_losses.csv').columns)==['epoch','train_loss','val_loss']
    assert list(run.stats.columns)[:5]==['epoch','train_loss','train_accuracy','val_loss','val_accuracy']
    classes = sorted(few.label.unique())
    assert list(run.results.columns)==['image','text','split','actual','predicted',*[f'probability_{c}' for c in classes]]
    _,results = evaluate(Run(run.path), device='cpu')
    probs = results.filter(like='probability_').values
    assert abs(probs.sum(1)-1).max()<1e-3 and abs(probs-run.results.filter(like='probability_').values).max()<.06
