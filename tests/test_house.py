"The repository is one piece: notebooks, modules, README and wheel agree; imports run downward; importing is cheap."
import ast, os, re, shutil, subprocess, sys, zipfile
from sysconfig import get_path

import pytest

from conftest import root
from fastai_seq.video.files import get_videos

nbformat = pytest.importorskip('nbformat')       # the developers' environment has it
from house_order import room_order
from make_readme import readme

notebooks = sorted(p for p in root.glob('nbs/**/*.ipynb') if '.ipynb_checkpoints' not in p.parts)
rooms = [
    p.relative_to(root / 'nbs').with_suffix('')
    for p in notebooks
    if p.parent.name != 'tutorials' and p.stem != 'index'
]
modules = [root/'fastai_seq'/r.with_suffix('.py') for r in rooms]
named = dict(argvalues=modules, ids=lambda m: str(m.relative_to(root/'fastai_seq').with_suffix('')))

def test_modules_are_exported_from_the_notebooks(tmp_path):
    for name in ('nbs', 'pyproject.toml', 'fastai_seq'):
        (shutil.copytree if (root/name).is_dir() else shutil.copy)(root/name, tmp_path/name)
    made = [m.relative_to(root) for m in [*modules, root/'fastai_seq/_modidx.py']]
    for m in made: (tmp_path/m).unlink()
    subprocess.run(['nbdev-export'], cwd=tmp_path, check=True)
    for m in made: assert (tmp_path/m).read_text() == (root/m).read_text(), f'{m} is not what its notebook exports'

def test_every_module_has_a_notebook():
    others = {m for m in root.glob('fastai_seq/**/*.py') if m not in modules}
    assert {m.name for m in others} == {'__init__.py', '_modidx.py', 'all.py'}

def test_readme_is_the_index():
    assert (root/'README.md').read_text(encoding='utf-8') == readme()

def test_targets_are_read_from_the_results():
    text = subprocess.run(
        [sys.executable, '-c', 'import targets; print(targets.text(), end="")'],
        cwd=root / 'benchmarks',
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (root / 'benchmarks/README.md').read_text().endswith(text) and text.count(
        '\n| '
    ) > 30, 'python benchmarks/targets.py'

def test_links_and_pictures_of_the_readme_exist():
    for target in re.findall(r'\]\((?!https?:|#)([^)]+)\)', readme()): assert (root/target).exists(), target


wings = ['video', 'data', 'models', 'train', 'judge', 'deploy', 'commands']        # from the ground up
roof = ['cli', 'walkthrough', 'all']

def floor(room):
    "How high the wing of a room stands: what has no wing is the ground, or the roof"
    wing, _, name = room.rpartition('.')
    if wing: return 1 + wings.index(wing)
    return 1 + len(wings) if name in roof else 0

def room_of(module): return '.'.join(module.relative_to(root/'fastai_seq').with_suffix('').parts)

def imported_rooms(module):
    "The rooms that a module imports from, with the names that it takes"
    here = room_of(module).split('.')
    for node in ast.walk(ast.parse(module.read_text())):
        if not isinstance(node, ast.ImportFrom): continue
        names = [a.name for a in node.names]
        if node.level: yield '.'.join([*here[:-node.level], *node.module.split('.')]), names
        elif node.module.startswith('fastai_seq.'): yield node.module.removeprefix('fastai_seq.'), names

@pytest.mark.parametrize('module', **named)
def test_imports_run_downward_and_are_named(module):
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert all(a.name != '*' for a in node.names), f'star import from {node.module}'
        if isinstance(node, ast.Import): assert not any(a.name.startswith('fastai_seq') for a in node.names)
    for room, names in imported_rooms(module):
        assert floor(room) <= floor(room_of(module)), f'{room_of(module)} imports from {room}, which stands above it'
        assert not [n for n in names if n.startswith('_')], f'{room_of(module)} imports private names from {room}'

def test_no_rooms_import_each_other():
    from graphlib import TopologicalSorter
    TopologicalSorter(
        {room_of(m): [r for r, _ in imported_rooms(m)] for m in modules}
    ).prepare()  # raises CycleError

@pytest.mark.parametrize('module', **named)
def test_public_names_are_documented(module):
    for node in ast.parse(module.read_text()).body:
        if (
            isinstance(node, (ast.FunctionDef, ast.ClassDef))
            and not node.name.startswith('_')
            and not any(getattr(d, 'id', '') in ('patch', 'dispatch') for d in node.decorator_list)
        ):
            assert ast.get_docstring(node), node.name

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_notebooks_are_run_clean_and_small(path):
    nb = nbformat.read(path, as_version=4)
    code = [
        c
        for c in nb.cells
        if c.cell_type == 'code' and c.source.strip() and 'skip-execution' not in c.metadata.get('tags', [])
    ]
    outputs = [o for c in code for o in c.outputs]
    assert not [o for o in outputs if o.output_type == 'error']
    assert path.stem == 'index' or any(o.get('data', {}) or o.get('text') for o in outputs), 'the notebook was not run'
    assert path.stat().st_size < 600_000
    assert len({c.id for c in nb.cells}) == len(nb.cells)

def test_imports_are_cheap():
    for name in ('fastai_seq', 'fastai_seq.video.sampling'):
        code = f"import sys, {name}; print([m for m in ('torch', 'fastai', 'numpy', 'av') if m in sys.modules])"
        assert (
            subprocess.run(
                [sys.executable, '-c', code], capture_output=True, text=True, check=True
            ).stdout.strip()
            == '[]'
        )

@pytest.mark.slow
def test_importing_all_brings_in_no_extra():
    "What a notebook waits for is fastai.vision.all; packages that only some users need are imported when they are used"
    from configparser import ConfigParser
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini')
    extras = {
        re.match(r'\w+', r)[0]
        for k, v in ini['DEFAULT'].items()
        if k.endswith('_requirements') and k != 'dev_requirements'
        for r in v.split()
    }

    def tops(name):
        return {
            *subprocess.run(
                [
                    sys.executable,
                    '-W',
                    'ignore',
                    '-c',
                    f"import sys, {name}; print(*{{m.split('.')[0] for m in sys.modules}})",
                ],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
        }

    new = tops('fastai_seq.all') - tops('fastai.vision.all')
    assert {'fastai_seq', 'av'} <= new and len(extras) > 5 and not new & extras

def test_the_face_is_what_is_taught():
    "Each name that `fastai_seq.all` adds to fastai's stands in README or in a tutorial, and none hides one of fastai's"
    import fastai.vision.all as theirs, fastai_seq.all as face
    ours = {n for n, o in vars(face).items() if n[0] != '_' and getattr(o, '__module__', '').startswith('fastai_seq')}
    cells = [c for p in root.glob('nbs/tutorials/*.ipynb') for c in nbformat.read(p, 4).cells]
    words = set(re.findall(r'\w+', '\n'.join([*(c.source for c in cells), (root/'README.md').read_text(encoding='utf-8')])))
    assert 90 < len(ours) < 125
    assert not ours - words and not ours & set(vars(theirs))

def test_the_face_brings_what_rooms_add_to_classes():
    "`dls.bench`, `learn.fit_head` …: every room but the shell's is imported"
    code = 'import sys, fastai_seq.all; print(*[m for m in sys.modules if m.startswith("fastai_seq.")])'
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    missing = {f'fastai_seq.{room}' for room in room_order()} - set(found)
    assert {m for m in missing if not m.startswith('fastai_seq.commands.')} <= {
        'fastai_seq.cli', 'fastai_seq.train.console', 'fastai_seq.judge.known'
    }

@pytest.mark.slow
def test_wheel_holds_the_library_and_works_elsewhere(tmp_path, clips):
    src = tmp_path/'src'
    shutil.copytree(root, src, ignore=shutil.ignore_patterns('.git', '.venv', '*.egg-info', 'build', 'dist'))
    subprocess.run([sys.executable, '-m', 'build', '-o', tmp_path/'dist'], cwd=src, check=True, capture_output=True)
    wheel, = (tmp_path/'dist').glob('*.whl')
    sdist, = (tmp_path/'dist').glob('*.tar.gz')
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split('/')[0] for n in names if '.dist-info/' not in n} == {'fastai_seq'}
    assert {str(m.relative_to(root)) for m in modules} < set(names)
    info = {n.rsplit('/', 1)[1]: n for n in names if '.dist-info/' in n}
    read = lambda n: zipfile.ZipFile(wheel).read(info[n]).decode()
    assert 'fastai-seq = fastai_seq.cli:main' in read('entry_points.txt') and 'fastai_seq._modidx:d' in read(
        'entry_points.txt'
    )
    for line in (
        'License: Apache-2.0',
        'Requires-Dist: timesformer-pytorch',
        'Requires-Dist: av',
        'Requires-Python: >=3.11',
    ):
        assert line in read('METADATA'), line
    env = tmp_path/'env'    # the wheel itself, in an environment that has nothing else
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', env], check=True)
    py = env/'bin/python'
    subprocess.run([sys.executable, '-m', 'pip', '--python', py, 'install', '-q', '--no-deps', wheel], check=True)
    run = lambda *args: subprocess.run(
        [*map(str, args)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | {'MPLBACKEND': 'agg'},
    )
    res = run(py, '-c', "import fastai_seq; print(fastai_seq.__version__, fastai_seq.__file__)")
    assert res.stdout.startswith('0.') and str(env) in res.stdout, res.stderr
    next(env.glob('lib/python*/site-packages')).joinpath('others.pth').write_text(
        get_path('purelib')
    )  # what it requires: from here, as a link
    for args in (
        (
            'train',
            clips,
            '--weights',
            'none',
            '--arch',
            'squeezenet1_1',
            '--epochs',
            1,
            '--size',
            64,
            '--seq_len',
            3,
        ),
        ('predict', 'fastai_seq_train/model.pkl', get_videos(clips)[0]),
    ):
        res = run(env/'bin/fastai-seq', *args)
        assert res.returncode == 0, res.stderr
    assert 'Move' in res.stdout
    subprocess.run(
        [
            'jupyter',
            'nbconvert',
            '--to',
            'python',
            '--output-dir',
            tmp_path,
            root / 'nbs/tutorials/splits.ipynb',
        ],
        check=True,
        capture_output=True,
    )
    res = run(py, 'splits.py')
    assert res.returncode == 0, res.stderr

@pytest.mark.slow
def test_what_is_imported_is_required():
    "By us, or by fastai: the developers' environment has more, a user's has not. What only a function imports may be an extra's"
    from configparser import ConfigParser
    from importlib.metadata import packages_distributions, requires
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini')
    name = lambda r: re.match(r'[\w.-]+', r)[0].lower().replace('_', '-')
    ours = {name(r) for r in ini['DEFAULT']['requirements'].split()}
    ours |= {name(r) for r in requires('fastai') if 'extra ==' not in r}
    extras = {
        name(r)
        for k, v in ini['DEFAULT'].items()
        if k.endswith('_requirements') and k != 'dev_requirements'
        for r in v.split()
    }
    extras |= {name(r) for e in extras for r in requires(e) if 'extra ==' not in r}
    found = packages_distributions()
    for m in modules:
        tree = ast.parse(m.read_text())
        inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
        for n in ast.walk(tree):
            if isinstance(n, ast.Import) or isinstance(n, ast.ImportFrom) and not n.level:
                tops = (
                    {a.name.split('.')[0] for a in n.names}
                    if isinstance(n, ast.Import)
                    else {n.module.split('.')[0]}
                )
                for top in tops - set(sys.stdlib_module_names) - {'compression', 'fastai_seq'}:
                    assert {name(d) for d in found[top]} & (
                        ours | extras if n in inner else ours
                    ), f'{m.name} imports {top}, which nothing requires'
