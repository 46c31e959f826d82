"Hands settings.ini to setuptools; everything else is stated in pyproject.toml."
from configparser import ConfigParser
from setuptools import setup, find_packages

ini = ConfigParser(delimiters=['='])
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lib, extras = 'fastai_seq', '_requirements'

setup(
    author=cfg['author'], license=cfg['license'], keywords=cfg['keywords'].split(),
    packages=find_packages(include=[lib, f'{lib}.*']),
    install_requires=cfg['requirements'].split(),
    extras_require={k.removesuffix(extras): v.split() for k, v in cfg.items() if k.endswith(extras)},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{lib} = {lib}._modidx:d']})
