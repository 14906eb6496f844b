"The REST API over real HTTP: each kind of input, each mistake, many clients at once, and answers without torch"
import asyncio, io, os, re, signal, socket, subprocess, sys, time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from garbage_clf.data.sample import sample_items
from garbage_clf.train.fit import fit
from garbage_clf.train.recipes import get_recipe
from garbage_clf.use.classify import Classifier, classify
from garbage_clf.use.portable import export_model

RUN = 'import sys; from garbage_clf.cli import main; sys.exit(main(sys.argv[1:]))'


def start(*words):
    "A server in a process of its own, and its address"
    command = [sys.executable,'-c',RUN,'serve',*map(str, words),'--port','0']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert 'answers on http://127.0.0.1:' in line, process.stderr.read()
    return process,re.search(r'http://127[\d.:]+', line)[0]

def stop(process):
    process.send_signal(signal.SIGTERM)
    out,err = process.communicate(timeout=20)
    assert process.returncode==-signal.SIGTERM
    return err

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('serve')
    small = dict(model='cnn_small', pretrained=False, frozen=False, text='bow', size=32, epochs=2)
    run = fit(sample_items(), get_recipe('multimodal-fast', **small), out/'run', device='cpu')
    return export_model(run, out/'run'/'export')

@pytest.fixture(scope='module')
def url(folder):
    process,url = start(folder, '--megabytes',2, '--megapixels',1, '--items',8, '--seconds',2)
    yield url
    assert 'Traceback' not in stop(process)

@pytest.fixture(scope='module')
def photos(): return [Path(p).read_bytes() for p in sample_items().image[:500]]

def post(url, *photos, **data):
    return httpx.post(f'{url}/predict', files=[('photo',('a.jpg',p)) for p in photos], data=data, timeout=20)

def check_same(found, expected):
    "Answers are equal, but for the rounding that another batch brings"
    found,expected = dict(found),dict(expected)
    for name in ('image','text'): found.pop(name, None), expected.pop(name, None)
    assert list(found)==list(expected)
    for name,value in expected.items():
        if name=='probabilities': assert found[name]==pytest.approx(value, abs=2e-4)
        elif isinstance(value, float): assert found[name]==pytest.approx(value, abs=2e-4)
        else: assert found[name]==value, name

def png(width, height):
    out = io.BytesIO()
    Image.new('L', (width,height)).save(out, 'png')
    return out.getvalue()


# What is answered

@pytest.mark.parametrize('n,texts', [(1,[]), (3,[]), (0,['cup']), (0,['cup','lid']), (1,['wet']), (3,['wet']), (2,['wet','lid'])])
def test_photos_and_texts(url, folder, photos, n, texts):
    answer = post(url, *photos[:n], text=texts)
    assert answer.status_code==200, answer.text
    many = max(n, len(texts))
    expected_texts = None if not texts else texts*many if len(texts)==1 else texts
    images = [io.BytesIO(p) for p in photos[:n]] or None
    expected = list(classify(Classifier(folder), images, expected_texts))
    found = answer.json()['predictions']
    assert len(found)==len(expected)
    for a,b in zip(found, expected): check_same(a, b)
    assert [a.get('image') for a in found]==(['a.jpg']*n or [None]*many)

def test_other_pages(url):
    labels = httpx.get(f'{url}/labels').json()
    assert labels['modalities']==['image','text'] and set(labels['bins'])==set(labels['classes'])
    assert httpx.get(f'{url}/health').json()==dict(status='ok')
    assert '/predict' in httpx.get(f'{url}/openapi.json').json()['paths']
    assert 'swagger' in httpx.get(f'{url}/docs').text
    assert httpx.get(f'{url}/nowhere').json()==dict(error='Not Found')

def test_metrics_count(url, photos):
    def figures():
        text = httpx.get(f'{url}/metrics').text
        return {k: float(v) for k,v in re.findall(r'(?m)^garbage_clf_(\S+) (\S+)$', text)}
    before = figures()
    post(url, *photos[:3])
    post(url, b'no photo')
    after = figures()
    assert after['items_total']-before['items_total']==3
    assert after['errors_total']-before['errors_total']==1
    assert after['request_seconds_count']-before['request_seconds_count']==2
    assert after['queue_length']==0
    assert after['request_seconds_bucket{le="+Inf"}']==after['request_seconds_count']


# What is refused

def refused(answer, status, says):
    assert answer.status_code==status, answer.text
    error = answer.json()['error']
    assert says in error and '\n' not in error

@pytest.mark.parametrize('content,status,says', [
    (b'', 422, 'empty'), (b'no photo', 415, 'it is no photo'), (b'%PDF-1.7 '*9, 415, 'a PDF'), (b'PK\3\4'+bytes(99), 415, 'zip archive'),
    (png(2000,1000), 413, '2 million pixels, and at most 1 million'), (png(20000,20000), 413, 'pixels'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 415, 'PostScript')])
def test_bad_photos(url, content, status, says): refused(post(url, content), status, says)

def test_truncated_photo(url, photos):
    refused(post(url, photos[0][:len(photos[0])//2]), 422, "photo 'a.jpg': it cannot be read to its end")

def test_one_bad_photo_is_named(url, photos):
    files = [('photo',('good.jpg',photos[0])), ('photo',('bad.jpg',b'bad'))]
    refused(httpx.post(f'{url}/predict', files=files), 415, "photo 'bad.jpg'")

def test_bad_forms(url, photos):
    predict = f'{url}/predict'
    refused(httpx.post(predict), 415, 'send a form')
    refused(httpx.post(predict, json=dict(text='cup')), 415, 'send a form')
    refused(httpx.post(predict, files=dict(image=photos[0])), 422, "no field 'image'")
    refused(httpx.post(predict, data=dict(words='cup')), 422, "no field 'words'")
    refused(httpx.post(predict, data=dict(text='  ')), 422, 'nothing was sent')
    refused(httpx.post(predict, data=dict(text='\x00\x01')), 422, 'item 1 of 1')
    refused(httpx.post(predict, data=dict(text='a'*2001)), 422, '2001 characters, and at most 2000')
    refused(httpx.post(predict, data=dict(photo='cup')), 422, 'send it as a file')
    refused(httpx.post(predict, files=dict(text=b'cup')), 422, 'send it as a text')
    refused(post(url, *photos[:3], text=['a','b']), 422, '3 photos and 2 texts')
    refused(post(url, *photos[:9]), 400, 'Maximum number of files is 8')
    refused(httpx.post(predict, data=dict(text=['a']*9)), 400, 'Maximum number of fields is 8')
    headers = {'content-type':'multipart/form-data'}
    refused(httpx.post(predict, content=b'x', headers=headers), 400, 'boundary')
    headers['content-type'] += '; boundary=b'
    refused(httpx.post(predict, content=b'rubbish', headers=headers), 400, 'nvalid')
    refused(httpx.get(predict), 405, 'Method Not Allowed')

def test_too_much_to_upload(url):
    refused(post(url, bytes(3_000_000)), 413, 'more than 2 MB')
    def endless():
        for _ in range(10_000): yield b'photo='*10_000
    headers = {'content-type':'application/x-www-form-urlencoded'}
    try: assert httpx.post(f'{url}/predict', content=endless(), timeout=10, headers=headers).status_code in (400,413)
    except (httpx.WriteError,httpx.ReadError,httpx.RemoteProtocolError): pass # It was hung up on while it sent
    assert httpx.get(f'{url}/health').status_code==200

def test_stalled_clients_hold_nobody_up(url, photos):
    address = ('127.0.0.1',int(url.rsplit(':', 1)[1]))
    head = b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 9999\r\n\r\n--b'
    stalled = [socket.create_connection(address, 10) for _ in range(20)]
    for s in stalled: s.sendall(head)
    start = time.perf_counter()
    assert post(url, photos[0]).status_code==200
    assert time.perf_counter()-start<1.5
    answer = stalled[0].recv(4096)
    assert answer.startswith(b'HTTP/1.1 408') and b'was not sent within 2 seconds' in answer+stalled[0].recv(4096)
    for s in stalled: s.close()

def test_full_queue_says_when_to_come_again(folder, photos):
    process,url = start(folder, '--queue',2)
    answer = post(url, *photos[:3])
    refused(answer, 503, 'send it again later')
    assert answer.headers['retry-after']=='1'
    assert post(url, *photos[:2]).status_code==200
    stop(process)


# Many at once, and the end

def test_64_clients_at_once(folder, photos):
    process,url = start(folder)
    shares = np.array_split(np.arange(len(photos)), 64)
    async def client(http, share):
        answers = {}
        for i in share:
            answer = await http.post(f'{url}/predict', files=dict(photo=(f'{i}.jpg',photos[i])))
            assert answer.status_code==200, answer.text
            answers[i], = answer.json()['predictions']
        return answers
    async def everyone():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(timeout=60, limits=limits) as http:
            return await asyncio.gather(*[client(http, share) for share in shares])
    answers = {}
    for part in asyncio.run(everyone()): answers |= part
    assert sorted(answers)==list(range(500))
    expected = classify(Classifier(folder), [io.BytesIO(p) for p in photos])
    for i,b in enumerate(expected):
        assert answers[i]['image']==f'{i}.jpg'
        check_same(answers[i], b)
    stop(process)

def test_stop_lets_requests_end(folder, photos):
    process,url = start(folder)
    async def ask():
        async with httpx.AsyncClient(timeout=20) as http:
            files = [('photo',('a.jpg',p)) for p in photos[:60]]
            asking = asyncio.create_task(http.post(f'{url}/predict', files=files))
            while 'queue_length 60' not in (await http.get(f'{url}/metrics')).text: assert not asking.done()
            process.terminate()
            return await asking
    answer = asyncio.run(ask())
    assert answer.status_code==200 and len(answer.json()['predictions'])==60
    assert process.wait(20)==-signal.SIGTERM

def test_one_port_one_server(folder, url):
    words = [sys.executable,'-c',RUN,'serve',str(folder),'--port',url.rsplit(':', 1)[1]]
    second = subprocess.run(words, capture_output=True, text=True)
    assert second.returncode==1 and second.stderr.count('\n')==1
    assert 'cannot listen on 127.0.0.1' in second.stderr and 'Choose another --port' in second.stderr


# Its own schema

def test_schema(url):
    import schemathesis
    from hypothesis import HealthCheck, Phase, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance
    schema = schemathesis.openapi.from_url(f'{url}/openapi.json')
    checks = [not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance]
    asked = []
    for operation in schema.get_all_operations():
        @settings(max_examples=10, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck))
        @operation_cases(operation.ok())
        def check(case):
            asked.append(case.call_and_validate(checks=checks).status_code)
        check()
    assert len(asked)>=10 and 200 in asked

def operation_cases(operation):
    "Hypothesis' `given` over cases of an operation"
    from hypothesis import given
    return given(case=operation.as_strategy())


# Without torch

@pytest.mark.parametrize('name', ['','model.onnx'])
def test_predict_imports_no_torch(folder, name):
    photo = sample_items().image[0]
    code = 'import sys; from garbage_clf.cli import main; code = main(sys.argv[1:]); '
    code += "print(code, sorted({'torch','fastai','pandas'} & set(sys.modules)))"
    for words in (['--text','old phone'], [photo,'--json']):
        done = subprocess.run([sys.executable,'-c',code,'predict',folder/name,*words], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1]=='0 []', done.stderr

def test_try_imports_no_torch(folder):
    code = 'import sys; from garbage_clf.cli import main; code = main(sys.argv[1:]); '
    code += "print(code, sorted({'torch','fastai','pandas'} & set(sys.modules)))"
    lines = f'{sample_items().image[0]}\nold phone\ngone.jpg\n|\n' # And the end of the input
    done = subprocess.run([sys.executable,'-c',code,'try',folder], input=lines, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1]=='0 []', done.stderr
    assert done.stdout.count('confident')+done.stdout.count('unfamiliar')>=2 and 'no photo at gone.jpg' in done.stdout

def test_serving_needs_an_export(folder, tmp_path):
    run = tmp_path/'run'
    run.mkdir()
    (run/'recipe.json').write_text('{}')
    for model,says in ((run,f'garbage-clf export {run}'), (tmp_path/'nowhere','neither an exported folder nor a run')):
        done = subprocess.run([sys.executable,'-c',RUN,'serve',model], capture_output=True, text=True)
        assert done.returncode==1 and says in done.stderr and done.stderr.count('\n')==1

def test_missing_extra_is_one_line(folder):
    code = "import sys; sys.modules['fastapi'] = None; " + RUN
    done = subprocess.run([sys.executable,'-c',code,'serve',folder], capture_output=True, text=True)
    assert done.returncode==1 and 'pip install "garbage_clf[serve]"' in done.stderr and done.stderr.count('\n')==1
