"README.md from nbs/index.ipynb: `python tests/make_readme.py` writes it, a test holds it in step."
import re
from pathlib import Path

import nbformat

root = Path(__file__).parent.parent

def code(cell):
    "The cell's source without its directives, fenced; nothing if it is not to be shown"
    flags, lines = [], []
    for l in cell.source.splitlines(): (flags if l.startswith('#|') else lines).append(l)
    shown = not any(re.match(r'#\|\s*(hide|echo: false)', f) for f in flags)
    return ['```python\n' + '\n'.join(lines) + '\n```'] if shown and lines else []

def outputs(cell):
    "What the cell displays as Markdown"
    return [o.data['text/markdown'] for o in cell.outputs if 'text/markdown' in o.get('data', {})]

def readme():
    parts = []
    for cell in nbformat.read(root/'nbs/index.ipynb', as_version=4).cells:
        parts += [cell.source] if cell.cell_type == 'markdown' else code(cell) + outputs(cell)
    text = '\n\n'.join(p.strip() for p in parts) + '\n'
    return re.sub(
        r'\]\((?!https?:|#)([^)]+)\)',
        lambda m: f"]({m[1][3:] if m[1].startswith('../') else 'nbs/' + m[1]})",
        text,
    )

if __name__ == '__main__': (root/'README.md').write_text(readme(), encoding='utf-8')
