"Everything about the package stands in settings.ini; this file hands it to setuptools"
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

here = Path(__file__).parent
cfg = ConfigParser(delimiters=['='])
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
lines = lambda key: cfg[key].split('\n')[1:]
extras = {key.removesuffix('_requirements'): lines(key) for key in cfg if key.endswith('_requirements')}

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
    author=cfg['author'], license=cfg['license'], python_requires=f">={cfg['min_python']}",
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    classifiers=['Programming Language :: Python :: 3', 'Framework :: Jupyter', 'Intended Audience :: Science/Research'],
    packages=find_packages(include=['garbage_clf', 'garbage_clf.*']), include_package_data=True,
    package_data={'garbage_clf': ['*.yaml', 'data/*.csv', 'data/*.js', 'data/*.css', 'data/builtin/*', 'data/web_app/*']},
    install_requires=lines('requirements'), extras_require=extras,
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': ['garbage_clf=garbage_clf._modidx:d']})
