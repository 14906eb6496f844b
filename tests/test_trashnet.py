"Real photos: these tests exist where GARBAGE_CLF_DATA holds TrashNet"
import json, os, subprocess, sys
from pathlib import Path

DATA = Path(os.environ.get('GARBAGE_CLF_DATA') or 'nowhere')/'trashnet'

if DATA.is_dir():
    def test_mobilenet_frozen(tmp_path):
        "The recipe of the README's table, from the command line, on the authors' split; and a prediction from it"
        code = 'import sys; from garbage_clf.cli import main; sys.exit(main())'
        sh = lambda *words: subprocess.run([sys.executable, '-c', code, *map(str, words)], capture_output=True, text=True)
        run = sh('train','trashnet','--recipe','mobilenet-frozen','--device','cpu','--out',tmp_path/'run')
        assert run.returncode==0, run.stderr[-2000:]
        metrics = json.loads((tmp_path/'run'/'metrics.json').read_text())
        assert metrics['test']['n']==431 and metrics['test']['accuracy']>=.85
        got = sh('predict', tmp_path/'run', DATA/'glass'/'glass1.jpg', '--json')
        assert json.loads(got.stdout)['label'] in metrics['test']['per_class']

    def test_a_changed_photo_is_named(tmp_path, monkeypatch):
        import pytest
        from garbage_clf.core import WorkbookError
        from garbage_clf.data.trashnet import trashnet
        (tmp_path/'trashnet').mkdir()
        for d in DATA.iterdir():
            if d.is_dir() and d.name!='glass': (tmp_path/'trashnet'/d.name).symlink_to(d)
        (tmp_path/'trashnet'/'glass').mkdir()
        for p in (DATA/'glass').iterdir(): (tmp_path/'trashnet'/'glass'/p.name).symlink_to(p)
        (tmp_path/'trashnet'/'glass'/'glass7.jpg').unlink()
        (tmp_path/'trashnet'/'glass'/'glass7.jpg').write_bytes((DATA/'glass'/'glass8.jpg').read_bytes())
        monkeypatch.setenv('GARBAGE_CLF_DATA', str(tmp_path))
        with pytest.raises(WorkbookError, match='1 of 2527 photos are missing or changed, glass/glass7.jpg first'): trashnet()
