"Hostile and damaged inputs end in an answer or in one clean error; `python tools/fuzz.py 100000` tries more"
import importlib.util, os, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location('fuzz', ROOT/'tools'/'fuzz.py')
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


def test_two_thousand():
    outcomes,wrong = fuzz.run_cases(2000)
    assert not wrong, wrong[:5]
    kinds = {kind for kind,_ in outcomes}
    assert len(kinds)==9
    for kind in kinds:
        assert outcomes[kind,'answer']>=10, (kind,outcomes)
        assert outcomes[kind,'error']>=10 or kind in ('case_cache','case_facts'), (kind,outcomes) # Those mend themselves


CODE = """
import json, sys
from pathlib import Path
from garbage_clf.cli import main
run = Path(sys.argv[1])
recipe = json.loads((run/'recipe.json').read_text())
recipe['about'] = 'hi <img src=x onerror=alert(1)> {{7*7}}'
recipe['name'] = "x'); open('pwned','w'); ('"
(run/'recipe.json').write_text(json.dumps(recipe))
sys.argv[1:] = ['report', str(run)]
sys.exit(main())
"""

def test_no_code_from_files(tmp_path):
    "A recipe's words, and modules that lie in the run or in the working folder, are never run"
    cases = fuzz.Cases(tmp_path)
    run = cases.run.path
    for folder in (run, tmp_path/'here'):
        folder.mkdir(exist_ok=True)
        for name in ('seaborn','jinja2','nbconvert','pip','pandas','yaml'):
            (folder/f'{name}.py').write_text(f"open({str(tmp_path/'pwned')!r}, 'w')\nraise SystemExit")
    env = {k: v for k,v in os.environ.items() if k!='PYTHONPATH'}
    code = tmp_path/'elsewhere'
    code.mkdir()
    (code/'go.py').write_text(CODE)
    done = subprocess.run([sys.executable, str(code/'go.py'), str(run)], cwd=tmp_path/'here', env=env, capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    assert not list(tmp_path.rglob('pwned'))
    html = (run/'report.html').read_text()
    assert '<img src=x' not in html and '{{7*7}}' in html and "x&#39;); open" in html or "x'); open" in html


@pytest.mark.parametrize('word', ['hi\n%%\nimport os\n%%\n', '\x1b[2K', '\u202e'])
def test_lines_of_a_recipe_stay_lines(tmp_path, word):
    from garbage_clf.core import WorkbookError, write_json
    from garbage_clf.train.recipe_change import load_recipe
    write_json(tmp_path/'r.json', dict(name='x', about=word, model='mobilenet_v2'))
    with pytest.raises(WorkbookError, match='is no line of text'): load_recipe(tmp_path/'r.json')


def test_pipes_and_devices_are_not_read(tmp_path):
    "A pipe or an endless device under the name of a photo, wherever photos are read"
    from garbage_clf.data.audit import audit
    from garbage_clf.data.download import photo_digests
    from garbage_clf.data.read import read_items
    from garbage_clf.use.predict import predict
    cases = fuzz.Cases(tmp_path)
    for label in ('glass','metal'):
        (tmp_path/'photos'/label).mkdir(parents=True)
        (tmp_path/'photos'/label/'a.jpg').write_bytes(cases.photo)
    os.mkfifo(tmp_path/'photos/glass/pipe.jpg')
    (tmp_path/'photos/metal/zero.jpg').symlink_to('/dev/zero')
    items = read_items(tmp_path/'photos')
    found = audit(items)
    assert found.facts.error.dropna().tolist()==['unreadable']*2
    assert photo_digests([tmp_path/'photos/glass/pipe.jpg'])==['']
    preds = predict(cases.run, [tmp_path/'photos/glass/pipe.jpg'], text='jar')
    assert preds[0].label
