"The sample keeps its promise: photos and words are each worth something, and both together more"
import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import StandardScaler

from garbage_clf.data.images import load_pixels
from garbage_clf.data.sample import AMBIGUOUS_NAMES, AMBIGUOUS_PICTURES, UNAMBIGUOUS, read_kinds, sample_items
from garbage_clf.models.inference import get_outputs
from garbage_clf.models.registry import build_model


def is_correct(features, labels):
    "Which items logistic regression gets right when it is not trained on them"
    model = LogisticRegression(C=30, max_iter=2000)
    return cross_val_predict(model, features, labels.astype(str), cv=5)==labels


@pytest.fixture(scope='module')
def correct():
    "Item by modality: whether it is classified correctly"
    items = sample_items()
    photos,_ = load_pixels(items.image, 192)
    outputs = get_outputs(build_model('efficientnet_lite0', 4).backbone, photos)
    image = StandardScaler().fit_transform(outputs)/30
    text = TfidfVectorizer().fit_transform(items.text).toarray()
    features = dict(image=image, text=text, both=np.hstack([image, text]))
    return pd.DataFrame({name: is_correct(x, items.label) for name,x in features.items()})


def test_both_modalities_are_worth_more(correct):
    accuracy = correct.mean()
    assert .75 < accuracy.image < .88 and .75 < accuracy.text < .88 and accuracy.both > .95


def test_each_modality_helps_where_it_should(correct):
    tables = {'either':UNAMBIGUOUS, 'text':AMBIGUOUS_PICTURES, 'image':AMBIGUOUS_NAMES}
    block_of = {kind.name: block for block,table in tables.items() for kind in read_kinds(table)}
    names = [next(n for n in block_of if t.endswith(n)) for t in sample_items().text]
    accuracy = correct.groupby([block_of[n] for n in names]).mean()
    assert accuracy.image['image'] > accuracy.text['image']
    assert accuracy.text['text'] > accuracy.image['text']
