"""Runs the notebooks upon the modules: an export cell gives the module's names instead of making its own, so that coverage sees the module's lines.

    coverage run -m pytest && coverage run tests/run_notebooks.py && coverage combine && coverage report

prints which lines of fastai_seq neither tests nor notebooks run. `nbdev-test` runs the notebooks as they are.
"""

import ast, os, re, subprocess, sys
from importlib import import_module
from pathlib import Path

import nbformat
from execnb.shell import CaptureShell

def names_of(source):
    "What the cell binds at its top level"
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (a.asname or a.name.split('.')[0] for a in node.names)
        elif isinstance(node, ast.Assign):
            yield from (n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))
        elif hasattr(node, 'name'):
            yield node.name

def run(path):
    "The cells of the notebook at `path`"
    cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == 'code']
    exported = [m[1] for c in cells if (m := re.match(r'#\|\s*default_exp (\w+)', c))]
    scope = vars(import_module(f'fastai_seq.{exported[0]}')) if exported else {}
    shell = CaptureShell(path)
    for source in cells:
        if re.search(r'^#\|\s*(default_exp|eval: *false)', source, re.M): continue
        if re.match(r'#\|\s*export', source):
            shell.user_ns.update({n: scope[n] for n in names_of(source) if n in scope})
        else:
            shell.run(source)
            if shell.exc: raise shell.exc

if __name__ == '__main__':
    root = Path(__file__).parent.parent
    if sys.argv[1:]: run(Path(sys.argv[1]).resolve())
    else:
        for path in sorted(root.glob('nbs/**/*.ipynb')):
            print(path.relative_to(root), flush=True)
            subprocess.run([sys.executable, __file__, path], check=True, env={**os.environ, 'MPLBACKEND': 'agg'})
