"The book reads from the top, modules are small, and the code is plain: what a stranger needs to change it"
import ast, json, re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
MODULES = sorted(p for p in (ROOT/'garbage_clf').rglob('*.py') if p.name not in ('__init__.py','_modidx.py'))
LESSONS = {'001_first_classifier'} # They use the finished library, as a reader would


def cells(path): return json.loads(path.read_text())['cells']
def source(cell): return ''.join(cell['source'])
def module_name(path): return '.'.join(path.relative_to(ROOT/'garbage_clf').with_suffix('').parts)

def exported_module(path):
    "The module that a notebook exports, or None"
    for cell in cells(path):
        found = re.search(r'^#\| default_exp (\S+)', source(cell), re.M)
        if found: return found[1]

def imported_modules(code):
    "Modules of this package that some code imports, in strings that are run elsewhere too"
    found = set()
    for match in re.finditer(r'(?m)^\s*from garbage_clf\.([\w.]+) import', code): found.add(match[1])
    return found

def is_exported(cell): return cell['cell_type']=='code' and source(cell).startswith(('#| export','#|export'))
def is_run(cell): return cell['cell_type']=='code' and not re.match(r'#\|\s*(export|hide|default_exp)', source(cell))
def only_imports(cell):
    lines = [l for l in source(cell).splitlines() if l.strip() and not l.startswith('#|')]
    return all(l.startswith(('import','from',' ',')')) for l in lines)


# The book

PLACE = {exported_module(path): place for place,path in enumerate(NOTEBOOKS)}

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_no_notebook_uses_a_later_one(path):
    if path.stem in LESSONS: return
    place = NOTEBOOKS.index(path)
    code = '\n'.join(source(c) for c in cells(path) if c['cell_type']=='code')
    later = [m for m in imported_modules(code) if PLACE.get(m, -1)>place]
    assert not later, f'{path.stem} uses {later}, which come later in the book'

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_few_exported_cells_before_one_is_run(path):
    streak = longest = 0
    for cell in cells(path):
        if is_exported(cell) and not only_imports(cell): streak += 1
        elif is_run(cell): streak = 0
        longest = max(longest, streak)
    assert longest<=4, f'{longest} exported cells before one is run'

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_run_all_does_not_rewrite_the_library(path):
    for cell in cells(path):
        if cell['cell_type']=='code': assert 'nbdev_export(' not in source(cell)

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_begin_with_what_they_are_for(path):
    first = source(cells(path)[0])
    assert re.match(r'# .+\n\n> .+\n\n\S', first), 'a title, a line beginning with >, and why you would want it'

@pytest.mark.parametrize('path', [*NOTEBOOKS, ROOT/'nbs'/'index.ipynb'], ids=lambda p: p.stem)
def test_links_between_notebooks_lead_somewhere(path):
    for cell in cells(path):
        if cell['cell_type']!='markdown': continue
        for link in re.findall(r'\]\(([\w.]+\.ipynb)\)', source(cell)):
            assert (ROOT/'nbs'/link).exists(), f'{path.stem} links to {link}'


# Modules

@pytest.mark.parametrize('path', MODULES, ids=module_name)
def test_modules_are_small(path):
    n = len(path.read_text().splitlines())
    assert n<=220, f'{n} lines: take the module apart'

def is_network(node): return any('Module' in ast.unparse(base) for base in node.bases)

def functions_with_owner(tree):
    "Each function, and the class that it stands in"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef): yield node,None
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef): yield inner,node

@pytest.mark.parametrize('path', MODULES, ids=module_name)
def test_functions_have_at_most_five_parameters(path):
    if module_name(path).split('.')[0] in ('cli','commands'): return
    for node,owner in functions_with_owner(ast.parse(path.read_text())):
        if node.name=='__init__' and owner and is_network(owner): continue
        names = [a.arg for a in node.args.args+node.args.kwonlyargs if a.arg not in ('self','cls')]
        assert len(names)<=5, f'{node.name} has {len(names)} parameters: {names}'

def test_fit_and_predict_are_short():
    for module,name in (('train/fit','fit'),('train/fit','_run_steps'),('use/predict','predict')):
        tree = ast.parse((ROOT/'garbage_clf'/f'{module}.py').read_text())
        node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name==name)
        assert node.end_lineno-node.lineno+1<=30, f'{name} is too long to read as a table of contents'

def imports_at_top(path):
    "Modules of this package that a module imports"
    package,found = ['garbage_clf',*module_name(path).split('.')],set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom): continue
        full = '.'.join(package[:-node.level]+[node.module or '']) if node.level else node.module or ''
        if full.startswith('garbage_clf.'): found.add(full.removeprefix('garbage_clf.').strip('.'))
    return found

def test_no_cycles():
    graph = {module_name(p): imports_at_top(p) for p in MODULES}
    done,path = set(),[]
    def visit(name):
        assert name not in path, f'a cycle: {" -> ".join([*path[path.index(name):],name])}'
        if name in done: return
        path.append(name)
        for other in sorted(graph.get(name, ())): visit(other)
        path.pop()
        done.add(name)
    for name in graph: visit(name)

def test_code_is_plain():
    "Syntax nodes a statement, long lines, named lambdas, tuples as statements; see CONTRIBUTING.md"
    nodes = statements = lines = long = lambdas = tuples = 0
    for path in MODULES:
        code = [l for l in path.read_text().splitlines() if l.strip() and not l.strip().startswith('#')]
        lines += len(code)
        long += sum(len(l)>120 for l in code)
        for node in ast.walk(ast.parse(path.read_text())):
            nodes += 1
            statements += isinstance(node, ast.stmt)
            lambdas += isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)
            tuples += isinstance(node, ast.Expr) and isinstance(node.value, ast.Tuple)
    assert nodes/statements<=11
    assert long/lines<=.01
    assert lambdas<=5 and tuples==0


# Words

HOMEMADE = ['Halves', 'need_halves', 'drop_half', 'DropHalf', 'sure_above', 'sure_table', 'as_view', 'forward_views',
    'twins_table', '_name_giveaways', 'giveaway', 'learn_words', 'words_of', 'swap_pad', 'Blot', 'KeepBest', 'PickView',
    'DropTiny', 'StepGraph', 'stay_frozen', 'by_decay', 'early_lr', 'head_share', 'text_ceiling', '_moot', 'test_right',
    'test_wrong', 'by lot', 'learning by heart', 'learns by heart', 'likeness', 'label_set', 'write_folders',
    'forward_all', 'keep_missing', 'batch norms', 'blotted', 'halves_table', 'plot_halves']

def texts():
    "Everything that a reader sees: notebooks, package, README, tests of it left out"
    for path in [*NOTEBOOKS, ROOT/'nbs'/'index.ipynb']:
        for cell in cells(path): yield path.name,source(cell)
    for path in [*MODULES, ROOT/'README.md', ROOT/'CONTRIBUTING.md']: yield path.name,path.read_text()

@pytest.mark.parametrize('word', HOMEMADE)
def test_homemade_names_are_gone(word):
    where = {name for name,text in texts() if re.search(rf'(?<![\w]){re.escape(word)}(?![\w])', text)}
    tested = ('compat','train.recipe_change.ipynb','train.run.ipynb') # The table of old keys, and where it is tested
    where = {name for name in where if not any(t in name for t in tested)}
    assert not where
