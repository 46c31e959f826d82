"""Builds the wheel once, and for each Python given, or else for each newer one found, installs it into an empty environment and runs
the fast tier of the tests there, away from the checkout. What stands here works where users are: with the releases that they get today.

    python tests/try_wheel.py [--junit FOLDER] [PYTHON ...]"""

import argparse, glob, os, shutil, subprocess, sys, tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
oldest = 11                                     # the least 3.x of pyproject.toml's requires-python
newest = 14                                     # the last 3.x to look for

def run(*args, **kwargs): return subprocess.run([*map(str, args)], check=True, **kwargs)

def minor(python):
    "The x of a Python 3.x; None if it is none that runs"
    try:
        out = run(
            python, '-c', 'import sys; print(*sys.version_info[:2])', capture_output=True, text=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return None
    return int(out[1]) if out[0] == '3' else None

def candidates(x):
    "Where a Python 3.x may be: on the path, or among pyenv's"
    if found := shutil.which(f'python3.{x}'): yield found
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home()/'.pyenv'))
    yield from sorted(glob.glob(str(pyenv/f'versions/3.{x}.*/bin/python')), reverse=True)

def other_pythons():
    "The Pythons found beside this one. Says which are not there"
    for x in range(oldest, newest+1):
        if x == sys.version_info[1]: continue
        found = next((p for p in candidates(x) if minor(p) == x), None)
        if found: yield found
        else: print(f'Python 3.{x} is not here: not tried', flush=True)

def built(dest):
    "The wheel of the checkout, built in a copy of it"
    run(sys.executable, '-m', 'venv', dest/'build')
    py = binaries(dest/'build')/'python'
    run(py, '-m', 'pip', 'install', '-qq', 'build')
    skipped = shutil.ignore_patterns('.git', '.venv', '*.egg-info', 'build', 'dist', 'benchmarks', 'nbs')
    shutil.copytree(root, dest/'src', ignore=skipped)
    run(py, '-m', 'build', '-w', '-o', dest/'dist', dest/'src', stdout=subprocess.DEVNULL)
    return next((dest/'dist').glob('*.whl'))

def binaries(env): return env/('Scripts' if os.name == 'nt' else 'bin')

def tried(python, wheel, folder, junit):
    "Install `wheel` with `python` in `folder`, and run the fast tier there; the exit status"
    env, home = folder/'env', folder/'elsewhere'
    home.mkdir(parents=True)
    run(python, '-m', 'venv', env)
    py = binaries(env)/'python'
    run(py, '-m', 'pip', 'install', '-qq', f'{wheel}[onnx]', 'pytest')
    where = run(
        py, '-c', 'import fastai_seq; print(fastai_seq.__file__)', cwd=home, capture_output=True, text=True
    ).stdout
    assert str(env) in where, f'{where} is not the installed wheel'
    show = (
        "from importlib.metadata import version as v; print(*(f'{p} {v(p)}' for p in ('av', 'torch',"
        " 'torchvision', 'fastai', 'fastcore', 'numpy', 'pandas', 'pillow', 'onnxscript')), sep=', ')"
    )
    run(py, '-c', show)
    path = os.pathsep.join([str(binaries(env)), os.environ['PATH']])
    report = [f'--junitxml={junit/(Path(folder).name + ".xml")}'] if junit else []
    return subprocess.run(
        [py, '-m', 'pytest', '-q', '-m', 'not slow', '-p', 'no:cacheprovider', *report, root / 'tests'],
        cwd=home,
        env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | dict(PATH=path, MPLBACKEND='agg'),
    ).returncode

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--junit', type=Path)
    parser.add_argument('pythons', nargs='*')
    args = parser.parse_args()
    pythons = args.pythons or [*other_pythons()]
    failed = []
    with tempfile.TemporaryDirectory() as tmp:
        wheel = built(Path(tmp))
        for i,python in enumerate(pythons):
            print(f'\nPython 3.{minor(python)}: {python}', flush=True)
            folder = Path(tmp)/f'python3.{minor(python)}-{i}'
            if tried(python, wheel, folder, args.junit and args.junit.resolve()): failed.append(python)
            shutil.rmtree(folder)                # an environment takes 7 GB
    sys.exit(f'the fast tier failed with {", ".join(failed)}' if failed else 0)
