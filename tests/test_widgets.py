"Widgets as people use them: a real JupyterLab in a real browser"
import os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import nbformat
import pandas as pd
import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no Chromium to open JupyterLab in')

KERNEL = dict(name='python3', display_name='Python 3', language='python')
REVIEW = """from garbage_clf.analysis.review import review
review('run', 'corrections.csv')"""
LABEL = """from garbage_clf.use.label import label_photos
label_photos('run', 'new', 'labels.csv', n=4)"""
PREDICT = """from garbage_clf.use.page import predict_widget
predict_widget('run', 'answers.csv')"""
SAVE_STATE = '@jupyter-widgets/jupyterlab-manager/plugin.jupyterlab-settings' # JupyterLab keeps what widgets know with the notebook""

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A run, photos of another place, and a notebook for each widget"
    from garbage_clf.data.sample import sample_items
    from garbage_clf.train.fit import fit
    from garbage_clf.train.recipes import get_recipe
    d = tmp_path_factory.mktemp('lab')
    fit(sample_items(), get_recipe('efficientnet-lite0-frozen', size=64, epochs=3), d/'run', device='cpu')
    (d/'new').mkdir()
    for i,path in enumerate(sample_items(8, seed=7).image): shutil.copy(path, d/'new'/f'{i}.png')
    for name,code in (('review',REVIEW),('label',LABEL),('predict',PREDICT)):
        cells = [nbformat.v4.new_code_cell(code)]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=KERNEL))
        nbformat.write(notebook, d/f'{name}.ipynb')
    setting = d/'.config'/'lab'/'user-settings'/SAVE_STATE
    setting.parent.mkdir(parents=True)
    setting.write_text('{"saveState": true}')
    return d

@pytest.fixture(scope='module')
def lab(folder):
    "The address of a JupyterLab in that folder"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', '--ServerApp.port_retries=0',
        '--IdentityProvider.token=', f'--ServerApp.root_dir={folder}', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    env = dict(os.environ, JUPYTER_CONFIG_DIR=str(folder/'.config'), JUPYTER_DATA_DIR=str(folder/'.data'))
    with open(folder/'lab.log', 'w') as log: server = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=folder)
    address = f'http://127.0.0.1:{port}'
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f'{address}/api', timeout=2)
                break
            except OSError: time.sleep(.5)
        yield address
    finally:
        server.terminate()
        server.wait(20)

@pytest.fixture(scope='module')
def page(lab):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1200, height=900))
        page.set_default_timeout(180_000)
        yield page
        browser.close()

def open_widget(page, lab, name, shown='.photo-browser-image'):
    "Open a notebook, run it, and wait for the first photo, or for something else"
    page.goto(f'{lab}/lab/tree/{name}.ipynb?reset')
    page.locator('.jp-Notebook-ExecutionIndicator[data-status=idle]').wait_for(state='attached') # The kernel is there
    prompt = page.locator('.jp-Notebook .jp-InputPrompt').first
    for _ in range(20):
        page.locator('.jp-Notebook .cm-content').first.click()
        page.keyboard.press('Control+Enter')
        page.wait_for_timeout(500)
        if prompt.inner_text()!='[ ]:': break
    page.locator(shown).wait_for()
    return page.locator('.photo-browser-root')

def saved(path, n):
    "The rows of a table, when there are as many as expected"
    for _ in range(100):
        if path.exists() and len(found := pd.read_csv(path))==n: return found
        time.sleep(.1)
    raise AssertionError(f'{path.name} has not {n} rows: {path.read_text() if path.exists() else "it is not there"}')

def test_review(page, lab, folder):
    root = open_widget(page, lab, 'review')
    progress = root.locator('.photo-browser-progress')
    total = int(progress.inner_text().split()[2].rstrip(','))
    title = root.locator('.photo-browser-title').inner_text()
    assert title.startswith('labelled ') and '1 of' in progress.inner_text()
    root.click(position=dict(x=5, y=5))
    page.keyboard.press('b') # In JupyterLab's command mode this adds a cell below
    saved(folder/'corrections.csv', 1)
    page.keyboard.press('a')
    found = saved(folder/'corrections.csv', 2)
    assert sorted(found.reason)==['review: ambiguous','review: bad photo']
    assert progress.inner_text()==f'3 of {total}, 2 marked'
    page.keyboard.press('u')
    saved(folder/'corrections.csv', 1)
    page.get_by_text(f'2 of {total}, 1 marked').wait_for()
    assert page.locator('.jp-Notebook .jp-Cell').count()==1
    page.locator('.jupyter-widgets select').first.select_option('all')
    page.locator('.photo-browser-progress', has_text='of 143, 1 marked').wait_for() # The whole test split
    page.locator('.jupyter-widgets select').nth(3).select_option('valid')
    page.locator('.photo-browser-progress', has_text='of 142, 0 marked').wait_for()
    page.locator('.photo-browser-image').wait_for()
    page.get_by_role('button', name='explain (e)').click()
    heat = page.locator('.photo-browser-figure').first
    heat.wait_for()
    assert heat.inner_text().startswith('speaks for ')
    assert page.locator('.photo-browser-figure').count()==4
    heat.locator('img').click() # Larger
    page.screenshot(path=folder/'review.png')
    assert heat.locator('img').bounding_box()['height']==500

def test_label_and_adapt(page, lab, folder):
    from garbage_clf.data.tables import from_table
    from garbage_clf.train.adapt import adapt
    root = open_widget(page, lab, 'label')
    root.click(position=dict(x=5, y=5))
    for key in '1234': page.keyboard.press(key)
    progress = root.locator('.photo-browser-progress')
    table = from_table(folder/'labels.csv')
    for _ in range(50):
        if table.label.notna().all(): break
        time.sleep(.1)
        table = from_table(folder/'labels.csv')
    assert sorted(table.label)==['Black','Blue','Green','TTR']
    page.wait_for_timeout(500)
    assert progress.inner_text()=='4 of 4, 4 marked'
    page.locator('[data-id=filebrowser]').first.click() # Without the files, there is room for the notebook
    page.set_viewport_size(dict(width=390, height=844))
    assert root.locator('.photo-browser-image').bounding_box()['width']>150
    page.screenshot(path=folder/'label.png')
    adapted = adapt(folder/'run', table, folder/'adapted', 'cpu')
    assert adapted.metrics['adapted']['new_after']['n']==4

def test_predict(page, lab, folder):
    from garbage_clf.use.predict import predict
    page.set_viewport_size(dict(width=1200, height=900))
    photo = folder/'new'/'0.png'
    answer, = predict(folder/'run', photo)
    open_widget(page, lab, 'predict', '.predict-root')
    page.locator('.predict-file').first.set_input_files(photo)
    page.locator('.predict-headline').wait_for()
    assert page.locator('.predict-bars .photo-browser-name').first.inner_text()==answer.label
    assert page.locator('.predict-bars .photo-browser-share').first.inner_text()==f'{100*answer.probability:.0f} %'
    page.locator('.predict-feedback button').click()
    page.get_by_text(f'Saved as {answer.label}.').wait_for()
    found = saved(folder/'answers.csv', 1)
    assert found.action[0]=='keep' and (folder/found.image[0]).is_file()
    page.screenshot(path=folder/'predict.png')
    page.locator('.jp-Notebook .cm-content').first.click()
    page.keyboard.press('Control+s')
    for _ in range(100):
        content = (folder/'predict.ipynb').read_text()
        if 'PredictModel' in content or 'anywidget' in content: break
        time.sleep(.1)
    state = nbformat.reads(content, 4).metadata.widgets['application/vnd.jupyter.widget-state+json']['state']
    kept = [model['state'] for model in state.values() if 'megabytes' in model['state']][0]
    assert {name for name in kept if name[0]!='_'}<={'about','classes','explains','items','keeps','layout','megabytes','tabbable',
        'takes','title','tooltip'}
    assert photo.name not in content and len(content)<60_000 # The widget's own JavaScript is the most of it
