"The order of the house: `nav` of zensical.toml. A room imports only from rooms that stand before it."
import tomllib
from pathlib import Path

root = Path(__file__).resolve().parent.parent
config = tomllib.loads((root/'zensical.toml').read_text(encoding='utf-8'))['project']

def nav_pages(nav=config['nav'], section=''):
    "The site's pages in order, each with its section, as `('The rooms/video', 'video/read.md')`"
    if isinstance(nav, str): yield section, nav
    elif isinstance(nav, list):
        for item in nav: yield from nav_pages(item, section)
    else:
        for title,inner in nav.items(): yield from nav_pages(inner, f'{section}/{title}'.strip('/'))

def source_of(page):
    "The file that a page is made of, from the repository's root: a notebook, or else Markdown"
    notebook = f"nbs/{page.removesuffix('.md')}.ipynb"
    return notebook if (root/notebook).exists() else page.replace('/index.md', '/README.md')

def room_order():
    "The rooms from the ground up: `['files', …, 'video.sampling', …, 'cli']`"
    return [
        page.removesuffix('.md').replace('/', '.')
        for section, page in nav_pages()
        if section.startswith('The rooms/')
    ]
