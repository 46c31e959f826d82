"""Runs the cells of the notebooks that show and test, upon the modules instead of the export cells, so that coverage sees the modules' lines.

    coverage run -m pytest && coverage run tests/run_notebooks.py && coverage combine && coverage report -m

prints which lines of fastai_seq neither tests nor notebooks run. `nbdev-test` runs the notebooks as they are."""
import os, re, subprocess, sys
from importlib import import_module
from pathlib import Path

import nbformat
from execnb.shell import CaptureShell

def run(path):
    "The notebook's cells but for those that export, in the namespace of its module"
    cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == 'code' and not re.search(r'^#\|\s*(export|default_exp|eval: *false)', c.source, re.M)]
    exported = next((m[1] for c in nbformat.read(path, 4).cells if (m := re.search(r'#\|\s*default_exp (\w+)', c.source))), None)
    shell = CaptureShell(path)
    if exported: shell.user_ns.update({k: v for k,v in vars(import_module(f'fastai_seq.{exported}')).items() if not k.startswith('__')})
    for source in cells:
        shell.run(source)
        if shell.exc: raise shell.exc

if __name__ == '__main__':
    root = Path(__file__).parent.parent
    if sys.argv[1:]: run(Path(sys.argv[1]).resolve())
    else:
        for path in sorted(root.glob('nbs/**/*.ipynb')):
            print(path.relative_to(root), flush=True)
            subprocess.run([sys.executable, __file__, path], check=True, env={**os.environ, 'MPLBACKEND': 'agg'})
