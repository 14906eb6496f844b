"""Write README.md and its pictures from nbs/index.ipynb: `python tools/make_readme.py`

nbdev makes a README with Quarto, which not everyone has. nbconvert, which reports need anyway, does as well for one
page. Run it after `nbdev-test --save`, so that numbers and pictures are those of the last run; a test compares
README.md with what this script would write.
"""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

from garbage_clf.core import atomic, write_text

ROOT = Path(__file__).parents[1]


def shown_cell(cell):
    "A cell as the page shows it; None for a hidden one. Of cells marked `echo: false` only the output is shown"
    lines = cell.source.splitlines()
    directives = [l for l in lines if l.startswith('#|')]
    if any('hide' in d for d in directives): return None
    cell.source = '\n'.join(l for l in lines if l not in directives).strip()
    no_code = any('echo: false' in d for d in directives)
    cell.metadata['transient'] = dict(remove_source=no_code)
    return cell


def links_from_root(text):
    "Markdown with links relative to `nbs/`, made relative to the folder above"
    text = re.sub(r'\]\(((?!https?:|#|\.\./|nbs/)[^)]+)\)', r'](nbs/\1)', text)
    return text.replace('](../', '](')


def tidy(text):
    "Without trailing spaces, and with one blank line at most between paragraphs"
    text = re.sub(r'[ \t]+\n', '\n', text)
    text = re.sub(r'\n{3,}', '\n\n', text)
    return text.strip()+'\n'


def readme_parts(path):
    "The page that a notebook makes with its outputs, and its pictures by name"
    nb = nbformat.read(path, as_version=4)
    cells = [shown_cell(c) for c in nb.cells]
    nb.cells = [c for c in cells if c is not None]
    nb.metadata['language_info'] = dict(name='python')
    resources = dict(unique_key='index', output_files_dir='images')
    text,resources = MarkdownExporter().from_notebook_node(nb, resources)
    pictures = {Path(name).name: data for name,data in resources['outputs'].items()}
    return tidy(links_from_root(text)),pictures


def main():
    text,pictures = readme_parts(ROOT/'nbs'/'index.ipynb')
    write_text(ROOT/'README.md', text)
    for name,data in pictures.items():
        with atomic(ROOT/'nbs'/'images'/name) as tmp: tmp.write_bytes(data)


if __name__=='__main__': main()
