"Classify garbage from photos, from words, and from both: `from garbage_clf.all import *`"
__version__ = "0.2.0"

import os as _os
_os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE') # Before torch: threads that wait leave the core to other programs


def _public_names():
    "What `garbage_clf.all` offers, read from its source without importing it"
    import ast
    from pathlib import Path
    tree = ast.parse((Path(__file__).parent/'all.py').read_text(encoding='utf-8'))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level]
    return [alias.name for node in imports for alias in node.names]

def __dir__():
    return sorted([*globals(), *_public_names()])

def __getattr__(name):
    "Names of `garbage_clf.all`, imported when they are first used"
    if name.startswith('_') or name not in _public_names():
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    return getattr(import_module('garbage_clf.all'), name)
