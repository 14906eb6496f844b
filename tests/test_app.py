"The page of `garbage-clf app` as people use it: a real Voila, in a real browser, at the width of a desk and of a phone"
import base64, io, shutil, subprocess, sys, time, urllib.request
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no Chromium to open the page in')

COMMAND = 'import sys; from garbage_clf.cli import main; sys.exit(main())'
ANSWERED = """n => document.querySelectorAll('.predict-row').length==n
    && [...document.querySelectorAll('.predict-row .predict-cell')].every(cell => !cell.innerText.startsWith('...'))"""
WIDTHS = '[document.documentElement.scrollWidth, innerWidth]'
DROP = """([root, text]) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0))
    const moved = new DataTransfer()
    moved.items.add(new File([bytes], 'dropped.png'))
    root.dispatchEvent(new DragEvent('drop', { dataTransfer: moved, bubbles: true, cancelable: true }))
  }"""
RUN_CODE = """code => new Promise((resolve) => {
    const kernel = JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId
    const socket = new WebSocket(`ws://${location.host}/api/kernels/${kernel}/channels`)
    const ask = (type, content) => socket.send(JSON.stringify({ channel: 'shell', parent_header: {}, metadata: {}, content,
      header: { msg_id: crypto.randomUUID(), msg_type: type, username: '', session: 'test', version: '5.3' } }))
    const got = []
    socket.onmessage = (event) => {
      got.push(JSON.parse(event.data).msg_type)
      if (got.at(-1)=='kernel_info_reply' && got.filter((type) => type=='kernel_info_reply').length==2) resolve(got)
    }
    socket.onopen = () => {
      ask('kernel_info_request', {})
      ask('execute_request', { code, silent: false, store_history: false, user_expressions: {}, allow_stdin: false })
      setTimeout(() => ask('kernel_info_request', {}), 500)
    }
  })"""

def as_png(size, **kwargs):
    out = io.BytesIO()
    Image.new('L', size).save(out, 'PNG', **kwargs)
    return out.getvalue()

def upload(name, content): return dict(name=name, mimeType='image/jpeg', buffer=content)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A run that takes photos and words"
    from garbage_clf.data.sample import sample_items
    from garbage_clf.train.fit import fit
    from garbage_clf.train.recipes import get_recipe
    d = tmp_path_factory.mktemp('app')
    fit(sample_items(), get_recipe('multimodal-fast', text='bow', size=64, epochs=2), d/'run', device='cpu')
    (d/'voila.json').write_text('{"VoilaConfiguration": {"strip_sources": false}}') # Of whoever works in this folder
    return d

@pytest.fixture(scope='module')
def address(folder):
    "Where the page answers"
    words = ['app','run','--port','0','--megabytes','2']
    with open(folder/'app.log', 'w') as log:
        server = subprocess.Popen([sys.executable,'-c',COMMAND,*words], stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder)
        try:
            hint,line = server.stdout.readline(),server.stdout.readline()
            assert 'garbage-clf export run' in hint
            yield line.split()[3]
        finally:
            server.terminate() # A job in the background of a shell ignores SIGINT
            assert server.wait(20)==0
    assert 'Traceback' not in (folder/'app.log').read_text()

@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox','--use-fake-ui-for-media-stream',
            '--use-fake-device-for-media-stream'])
        yield browser
        browser.close()

def open_page(browser, address, width, **kwargs):
    "The page, when it is ready, and the addresses that it asked elsewhere"
    page = browser.new_page(viewport=dict(width=width, height=844), **kwargs)
    page.set_default_timeout(60_000)
    elsewhere = []
    page.on('request', lambda r: None if r.url.startswith((address,'data:','blob:')) else elsewhere.append(r.url))
    page.goto(address)
    page.locator('.predict-root').wait_for()
    return page,elsewhere

def test_photo_words_and_correction(browser, address, folder):
    from garbage_clf.data.corrections import read_corrections
    from garbage_clf.data.images import load_image
    from garbage_clf.data.sample import sample_items
    from garbage_clf.use.interactive import InteractiveModel, in_words
    model = InteractiveModel(folder/'run')
    file = sample_items().image[0]
    expected = [in_words(model, model.ask(load_image(file, 64), words)) for words in ('','old battery')]
    page,elsewhere = open_page(browser, address, 1200)
    assert page.title()=='Which bin does it go into?' and 'predict_widget' not in page.content()
    assert not page.locator('.predict-answer').is_visible()
    page.locator('.predict-file').first.set_input_files(file)
    band = page.locator('.predict-headline')
    band.wait_for()
    assert band.inner_text()==expected[0]['headline']
    assert page.locator('.predict-bars .photo-browser-name').first.inner_text()==expected[0]['label']
    page.locator('.predict-words').fill('old battery')
    page.locator('.predict-words').press('Enter')
    page.get_by_text(expected[1]['says']).wait_for()
    page.wait_for_function('text => document.querySelector(".predict-headline")?.innerText==text', arg=expected[1]['headline'])
    share = f'{100*expected[1]["probability"]:.0f} %'
    assert page.locator('.predict-bars .photo-browser-share').first.inner_text()==share
    photo = page.locator('.predict-image').get_attribute('src')
    page.get_by_role('button', name='What speaks for').click()
    page.get_by_role('button', name='Show the photo').wait_for()
    page.get_by_text('Looking...').wait_for(state='detached')
    assert page.locator('.predict-image').get_attribute('src')!=photo
    page.screenshot(path=folder/'page-1200.png', full_page=True)
    other = next(c for c in model.about['classes'] if c!=expected[1]['label'])
    assert not (folder/'corrections_photos').exists()
    page.locator('.predict-select').select_option(other)
    page.get_by_text(f'Saved as {other}.').wait_for()
    row = read_corrections(folder/'corrections.csv').iloc[0]
    assert [row.text,row.label,row.action]==['old battery',other,'relabel']
    assert Image.open(folder/row.image).size==Image.open(file).size
    page.locator('.predict-file').first.set_input_files(sample_items().image[1])
    page.wait_for_function(ANSWERED, arg=2)
    assert page.locator('.predict-words').input_value()=='' # Those were about the other photo
    assert page.locator('.predict-row').last.inner_text().endswith(Path(sample_items().image[1]).name)
    assert elsewhere==[]
    page.close()

def test_bad_files_on_a_phone(browser, address, folder):
    from garbage_clf.data.sample import sample_items
    photo = Path(sample_items().image[0]).read_bytes()
    page,_ = open_page(browser, address, 390, has_touch=True, is_mobile=True)
    assert page.locator('.predict-file').nth(1).get_attribute('capture')=='environment'
    heights = [b.bounding_box()['height'] for b in page.get_by_role('button').all() if b.is_visible()]
    assert len(heights)==3 and min(heights)>=48
    page.locator('.predict-file').first.set_input_files([upload('<b id=bold>.txt', b'This is a text.'),
        upload('empty.jpg', b''), upload('cut.jpg', photo[:len(photo)//2]), upload('vast.png', as_png((10_000,10_000))),
        upload('huge.png', as_png((2000,2000), compress_level=0)), upload('cup.png', photo)])
    page.wait_for_function(ANSWERED, arg=6)
    rows = [row.inner_text() for row in page.locator('.predict-row').all()]
    assert rows[0]=='<b id=bold>.txt: it is no photo, and photos are taken, for example JPEG or PNG'
    assert rows[1]=='empty.jpg: it is empty, zero bytes'
    assert rows[2].startswith('cut.jpg: it cannot be read to its end')
    assert rows[3]=='vast.png: it has 100 million pixels, and at most 50 million are taken'
    assert rows[4]=='huge.png: it has 4.0 MB, and at most 2 are taken'
    assert rows[5].endswith('%)\ncup.png')
    assert page.locator('#bold').count()==0
    page.locator('.predict-row').last.click()
    page.locator('.predict-headline').wait_for()
    assert page.evaluate(WIDTHS)==[390,390]
    page.screenshot(path=folder/'page-390.png', full_page=True)
    with page.expect_download() as saved: page.get_by_role('button', name='Save as CSV').click()
    assert len(pd.read_csv(saved.value.path()))==5 # The huge one was never sent
    page.get_by_role('button', name='Start anew').click()
    page.locator('.predict-words').fill('word '*10_000)
    page.get_by_role('button', name='Ask').click()
    page.get_by_text('the text has 49,999 characters, and at most 2,000 are taken').wait_for()
    page.close()

def test_camera_drop_and_kernel(browser, address, folder):
    from garbage_clf.data.sample import sample_items
    page,_ = open_page(browser, address, 1200)
    page.get_by_role('button', name='Take a photo').click()
    page.wait_for_function('document.querySelector("video")?.videoWidth>0')
    page.get_by_role('button', name='Take the photo').click()
    page.locator('.predict-headline').wait_for()
    assert page.locator('video').count()==0
    photo = base64.b64encode(Path(sample_items().image[0]).read_bytes()).decode()
    page.evaluate(DROP, [page.locator('.predict-root').element_handle(),photo])
    page.wait_for_function(ANSWERED, arg=2)
    assert [r.inner_text().split('\n')[1] for r in page.locator('.predict-row').all()]==['camera.jpg','dropped.png']
    got = page.evaluate(RUN_CODE, f'open({str(folder/"entered")!r}, "w")')
    assert 'execute_reply' not in got and not (folder/'entered').exists()
    kernel = page.evaluate('JSON.parse(document.getElementById("jupyter-config-data").textContent).kernelId')
    page.goto('about:blank') # The visitor leaves
    for _ in range(50):
        try: urllib.request.urlopen(f'{address}api/kernels/{kernel}', timeout=5)
        except urllib.error.HTTPError as e:
            assert e.code==404
            break
        time.sleep(.2)
    else: raise AssertionError('the kernel of a visitor who left is still there')
