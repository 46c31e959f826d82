"""The site: `python docs/make.py` writes a page of Markdown for every notebook into _proc, and zensical makes _docs of them.

Nothing is run: outputs and pictures are those stored in the notebooks. What a cell exports is shown as reference, made from
the installed module. `nav` in zensical.toml says which pages there are and in which order."""
import ast, base64, inspect, os, re, shutil, subprocess, sys
from functools import reduce
from importlib import import_module
from pathlib import Path
from textwrap import wrap

import nbformat
from fastcore.docments import DocmentTbl, docstring
from nbdev.doclinks import NbdevLookup, patch_name

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tests'))
from house_order import config, nav_pages, source_of

proc, site = root/config['docs_dir'], root/config['site_dir']
blob = f"{config['repo_url']}/blob/main"
pages = {source_of(p): p for _,p in nav_pages()}       # file in the repository, page of the site
lookup = NbdevLookup(strip_libs='fastai_seq fastai')
anchors = set()

# Reference, from modules

class Shown:
    "A default, as one writes it"
    def __init__(self, value): self.value = value
    def __repr__(self): return getattr(self.value, '__name__', None) or re.sub(r' at 0x\w+', '', repr(self.value))

def signature(name, sym):
    "How `sym` is called"
    try: sig = inspect.signature(sym)
    except ValueError: return f'{name}(*args)'          # an exception, say
    params = [p if p.default is p.empty else p.replace(default=Shown(p.default)) for p in sig.parameters.values()]
    whole = lambda o: str(o).replace(' ', '\xa0')         # is not broken over two lines
    shown = ', '.join(whole(p) for p in params if p.name not in ('self', 'cls'))
    line = f"{name}({shown}){whole(sig.replace(parameters=[])).removeprefix('()')}"
    return '\n    '.join(wrap(line, 96, break_long_words=False, break_on_hyphens=False)).replace('\xa0', ' ')

def parameters(sym):
    "The table of what is said of each parameter"
    rows = [r for r in str(DocmentTbl(sym, verbose=False)).splitlines()[2:] if not r.endswith('|  |')]
    rows = [re.sub(r'^\| \*\*Returns\*\* \| \*\*(.*)\*\*', r'| returns | \1', re.sub(r'^\| (\w+) \|', r'| `\1` |', r)) for r in rows]
    return '\n'.join(['| Parameter | |', '| --- | --- |', *rows]) if rows else ''

def entry(name, module, page, level=3):
    "Heading, signature, docstring and parameters of `name` in `module`"
    sym = reduce(getattr, name.split('.'), module)
    anchors.add(f'{page.removesuffix(".md")}.html#{name.lower()}')
    label = f' data-toc-label=".{name.rpartition(".")[2]}"' if '.' in name and len(name) > 22 else ''
    parts = [f'{"#"*level} `{name}` {{ #{name.lower()}{label} }}']
    if callable(sym): parts.append(f'```python\n{signature(name, sym)}\n```')
    parts.append(docstring(sym))
    if callable(sym): parts.append(parameters(sym))
    return [p for p in parts if p]

def reference(source, module, page):
    "What an exported cell defines, and its code, folded; nothing of a cell that only imports"
    names, made = [], []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)) or ast.unparse(node).startswith('_all_'): continue
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append('')
            continue
        name = patch_name(node)
        name = name if isinstance(name, str) else name[0]
        names.append(name)
        if name.rpartition('.')[2].startswith('_') or 'dispatch' in map(ast.unparse, node.decorator_list): continue
        made += entry(name, module, page)
        for m in getattr(node, 'body', []) if isinstance(node, ast.ClassDef) else []:
            if isinstance(m, ast.FunctionDef) and not m.name.startswith('_') and ast.get_docstring(m):
                made += entry(f'{name}.{m.name}', module, page, level=4)
    if not names: return []
    what = ', '.join(f'<code>{n}</code>' for n in names if n)
    return [*made, f'<details markdown="1" class="code"><summary>Code{" of " * bool(what)}{what}</summary>\n\n```python\n{source}\n```\n\n</details>']

# Notebooks

def picture(data, ending, page):
    "Writes a picture beside `page`; its name there"
    folder = proc/page.removesuffix('.md')
    folder.mkdir(parents=True, exist_ok=True)
    file = folder/f'{len(list(folder.iterdir()))}.{ending}'
    file.write_bytes(base64.b64decode(data))
    return f'{folder.name}/{file.name}'

def html(text, page):
    "An output in HTML with its pictures in files; nothing if there is nothing to be seen"
    text = re.sub(r'<style.*?</style>', '', text, flags=re.S)
    text = re.sub(r'data:image/(\w+);base64,([^"]+)', lambda m: picture(m[2], m[1], page), text)
    seen = re.search(r'<(img|video)', text) or re.sub('<[^>]+>', '', text).strip()
    text = re.sub(r'\n\s*\n', '\n', text.strip())
    return [f'<div class="output">\n{text}\n</div>'] if seen and '<progress' not in text else []

def output(o, page):
    "What is shown of one output of a cell"
    data = o.get('data', {})
    text = o.get('text') or data.get('text/plain', '')
    if 'image/png' in data: return [f'![]({picture(data["image/png"], "png", page)})']
    if 'text/html' in data: return html(data['text/html'], page)
    if 'text/markdown' in data: return [data['text/markdown']]
    return [f'```{{ .text .output }}\n{text.rstrip()}\n```'] if text.strip() else []

def linked(text, source):
    "Markdown with its links to files of the repository made links to pages of the site, pictures taken along"
    here = Path(pages[source]).parent
    def target(m):
        if re.match(r'\w+:', m[1]): return m[0]
        if not m[1]: return f']({m[2].lower()})'
        file = os.path.relpath(root/Path(source).parent/m[1], root)
        if file in pages: return f']({os.path.relpath(pages[file], here)}{m[2].lower()})'
        if not (root/file).exists(): sys.exit(f'{source}: a link leads to {m[1]}, which is not there')
        if not file.endswith(('.png', '.gif')): return f']({blob}/{file}{m[2]})'
        (proc/file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root/file, proc/file)
        return f']({os.path.relpath(file, here)})'
    return re.sub(r'\]\(([^)\s#]*)(#[^)\s]*|)\)', target, text)

def from_notebook(source, page):
    "The page of a notebook, as pieces of Markdown"
    room, module, parts = page.removesuffix('.md'), None, []
    for cell in nbformat.read(root/source, as_version=4).cells:
        lines = cell.source.splitlines()
        flags = ' '.join(l for l in lines if l.startswith('#|'))
        code = '\n'.join(l for l in lines if not l.startswith('#|')).strip()
        if cell.cell_type == 'markdown': parts.append(linked(cell.source, source))
        if cell.cell_type != 'code' or not code or re.search(r'\| *hide', flags): continue
        if re.search(r'\| *export', flags):
            module = module or import_module('fastai_seq.' + room.replace('/', '.'))
            parts += reference(code, module, page)
        elif 'echo: false' not in flags: parts.append(f'```python\n{code}\n```')
        parts += [p for o in cell.outputs for p in output(o, page)]
    where = [f'[Notebook]({blob}/{source})'] + [f'[module]({blob}/fastai_seq/{room}.py)'] * bool(module)
    head, *rest = parts
    return [head] + [f'<small>{" · ".join(where)}</small>'] * (source != 'nbs/index.ipynb') + rest

# Pages

def about(page):
    "A page's title, and its first quoted lines"
    text = (proc/page).read_text(encoding='utf-8')
    title = re.search(r'^# (.*)', text, re.M)[1]
    said = re.search(r'^((?:> .*\n?)+)', text, re.M)
    return title, re.sub(r'^> ', '', said[1], flags=re.M).replace('\n', ' ').strip() if said else ''

def listing(link, within=''):
    "The pages by section, a line each"
    lines, last = [], None
    for section,page in nav_pages():
        if not section.startswith(within) or page == 'map.md': continue
        if section != last: lines.append(f"\n## {section.rpartition('/')[2]}\n")
        title, said = about(page)
        lines.append(f'- [{title}]({link(page)})' + f': {said}' * bool(said))
        last = section
    return '\n'.join(lines) + '\n'

def named(text, page):
    "Names in backticks made links to their reference, here or in fastai's documentation"
    def link(m):
        url = lookup.doc(m[1]) if re.search('[A-Z_.]', m[1]) else None     # `train` may be a folder
        if not url: return m[0]
        here = url.removeprefix(config['site_url'])
        if here in anchors: return f"[{m[0]}]({os.path.relpath(here, Path(page).parent).replace('.html', '.md')})"
        return f'[{m[0]}]({url})' if url == here else m[0]
    lines, fenced = [], False
    for l in text.splitlines():
        if l.startswith('```'): fenced = not fenced
        lines.append(l if fenced or l.startswith(('#', '<', '>', ' ')) else re.sub(r'(?<![\[`])`([\w.]+)`(?![\]`])', link, l))
    return '\n'.join(lines) + '\n'

def write_pages():
    "The pages of `nav` in Markdown"
    shutil.rmtree(proc, ignore_errors=True)
    made = {}
    for source,page in pages.items():
        if page == 'map.md': continue
        (proc/page).parent.mkdir(parents=True, exist_ok=True)
        text = linked((root/source).read_text(encoding='utf-8'), source) if source.endswith('.md') else '\n\n'.join(from_notebook(source, page))
        made[page] = text if text.startswith('# ') else f'# {Path(page).stem}\n\n{text}'
    for page,text in made.items(): (proc/page).write_text(named(text, page), encoding='utf-8')
    text = '# The map\n\n> Each room is a notebook and the module it exports. A room imports only from rooms above it in this list.\n'
    (proc/'map.md').write_text(text + listing(lambda p: p, 'The rooms/'), encoding='utf-8')
    shutil.copy(root/'docs/extra.css', proc)

def write_plain():
    "For those who read Markdown: each page as page.html.md, and llms.txt (https://llmstxt.org)"
    for page in pages.values():
        text = (proc/page).read_text(encoding='utf-8')
        text = re.sub(r'(\]\([^):]+)\.md([#)])', r'\1.html.md\2', re.sub(r' \{ #.* \}$', '', text, flags=re.M))
        (site/page).with_suffix('.html.md').write_text(text, encoding='utf-8')
    title, said = about('index.md')
    list_ = listing(lambda p: config['site_url'] + p.removesuffix('.md') + '.html.md')
    (site/'llms.txt').write_text(f'# {title}\n\n> {said}\n{list_}', encoding='utf-8')

if __name__ == '__main__':
    write_pages()
    subprocess.run([sys.executable, '-m', 'zensical', 'build', '--clean', '--strict'], cwd=root, check=True)
    write_plain()
