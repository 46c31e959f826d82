"What README, the tutorials and CONTRIBUTING show without running it runs: but for sizes, epochs, downloads, an archive and a camera, in a folder such as they speak of."

import re, shlex, shutil, socket, subprocess, sys

import pytest, torchvision

import fastai_seq.all as lib
from conftest import root
from fastai_seq import cli

pytestmark = pytest.mark.slow
nbformat, timm = map(pytest.importorskip, ('nbformat', 'timm'))       # the developers' environment has them

text, contributing = ((root/name).read_text(encoding='utf-8') for name in ('README.md', 'CONTRIBUTING.md'))
smaller = {
    r'\bsize=\d+': 'size=64',
    r'--size \d+': '--size 32',
    r'seq_len=\d+': 'seq_len=4',
    r'(Random(?:Resized)?Crop)\(\d+': r'\1(24',
    r'fine_tune\(\d+': 'fine_tune(1',
    r'(fit_one_cycle|fit_head)\(\d+': r'\1(1',
    r'n_in=10, n_out=10': 'n_in=4, n_out=4',
    r'n_clips=10': 'n_clips=2',
    'rtsp://camera': 'new.mp4', r'image_size=\d+': 'image_size=64', r'num_frames=\d+': 'num_frames=4',
    r'minutes=10': 'minutes=.1',
    r'fastai-seq train videos': 'fastai-seq train videos --force --minutes .1 --size 32 --seq_len 4',
}

def small(code):
    for what,by in smaller.items(): code = re.sub(what, by, code)
    return code

def blocks(language, text=text):
    "The fenced blocks of `text` in `language`, made small"
    return [small(b) for b in re.findall(rf'```{language}\n(.*?)```', text, re.S)]

def random_weights(self, *args, **kwargs):
    "In place of a download"
    name = type(self).__name__.removesuffix('_Weights').lower()
    return torchvision.models.get_model(name, num_classes=len(self.meta['categories'])).state_dict()

@pytest.fixture
def videos(tmp_path, monkeypatch):
    "A folder `videos` with two classes of eight clips each, with labels for each frame, and what else README takes for granted"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('torchvision.models._api.WeightsEnum.get_state_dict', random_weights)
    create = timm.create_model
    monkeypatch.setattr(timm, 'create_model', lambda *args, pretrained=False, **kwargs: create(*args, **kwargs))
    made = lib.get_videos(lib.changing_clips('made', n_groups=8, clips_per_group=2, n_frames=40, size=(48,48)))
    for i,f in enumerate(made):
        name = f"{('Jump', 'Run')[i%2]}/{('jump', 'run')[i%2]}_{i//2+1:03}"
        lib.write_video(f'videos/{name}.mp4', lib.read_frames(f, range(40)), fps=20)
        shutil.copy(f.with_suffix('.txt'), f'videos/{name}.txt')
        for c in ('Archery', 'Bowling'):
            lib.write_video(f'ucf/{c}/v_{c}_g{i+1:02}_c01.avi', lib.read_frames(f, range(12)), fps=20)
    for name in ('new', 'match'): shutil.copy('videos/Run/run_001.mp4', f'{name}.mp4')
    lib.torch.save(torchvision.models.resnet18().state_dict(), 'resnet18.pth')
    return tmp_path

def test_the_python_of_readme(videos, monkeypatch):
    monkeypatch.setattr(lib, 'motion_clips', lambda: videos/'videos')
    monkeypatch.setattr(lib, 'untar_ucf101', lambda: videos/'ucf')
    scope, ran = {}, 0
    for block in blocks('python'):
        exec(block, scope)
        ran += 1
    assert ran > 6
    for made in (
        'report.html',
        'match.html',
        'model/model.safetensors',
        'model.onnx',
        'goes_on.mp4',
    ):
        assert (videos / made).exists(), made

def test_the_commands_of_readme(videos, monkeypatch, capsys):
    served = []
    monkeypatch.setattr('gradio.Blocks.launch', lambda self, **kwargs: served.append(kwargs))
    shutil.copy('new.mp4', 'again.mp4')
    lines = [l.split(' #')[0].strip() for b in blocks('sh') for l in b.splitlines() if l.startswith('fastai-seq')]
    lines += re.findall(r'`(fastai-seq \w+ \w[^`]+)`', small(text))
    assert len(lines) > 4
    for l in lines:
        words = [
            str(f)
            for w in shlex.split(l)[1:]
            for f in (sorted(p.name for p in videos.glob(w)) if '*' in w else [w])
        ]
        assert cli.main(words) == 0, (l, capsys.readouterr().err)
        if words[0] == 'train': shutil.copy('fastai_seq_train/model.pkl', 'model.pkl')
    assert len(served) == 1 and (videos/'frames/manifest.json').exists()

def tutorial(name): return nbformat.read(root/f'nbs/tutorials/{name}.ipynb', 4).cells

def not_run(name):
    "The code that a tutorial shows and does not run: fenced blocks, and cells marked so"
    for cell in tutorial(name):
        if cell.cell_type == 'markdown': yield from blocks('python', cell.source)
        elif '#| eval: false' in cell.source: yield small(cell.source)

@pytest.mark.parametrize('name', sorted(p.stem for p in root.glob('nbs/tutorials/*.ipynb') if any(not_run(p.stem))))
def test_what_tutorials_do_not_run(name, videos, monkeypatch):
    from transformers import TimesformerConfig
    from fastai_seq.models import hf_video
    cfg = TimesformerConfig(
        image_size=64,
        patch_size=16,
        num_frames=4,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    monkeypatch.setattr(hf_video, '_hf_config', lambda name: cfg)
    monkeypatch.setattr(hf_video, '_hf_net', lambda cls, name, cfg, n: cls(cfg))
    monkeypatch.setattr(hf_video, '_hf_stats', lambda name: ([.5]*3, [.5]*3))
    monkeypatch.setattr(lib, 'untar_ucf101', lambda: videos/'ucf')
    labels = (
        dict(label_func=lib.frame_labels, y_block=lib.FrameCategoryBlock)
        if name == 'frame_prediction'
        else dict(label_func=lib.parent_label)
    )
    dls = lib.ImageSeqDataLoaders.from_path_func(
        'videos', lib.get_instances('videos'), **labels, seq_len=4, size=32, bs=2, num_workers=0
    )
    for code in not_run(name): exec(code, {**vars(lib), 'path': videos/'videos', 'dls': dls})

def test_two_machines_train_together(videos):
    "Two that are one: the commands of the tutorial, at once"
    scope = {**vars(lib), 'path': videos/'videos'}
    exec(
        next(
            c.source
            for c in tutorial('several_machines')
            if c.cell_type == 'code' and c.source.startswith('script = ')
        ),
        scope,
    )
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    lines = [
        l
        for c in tutorial('several_machines')
        if c.cell_type == 'markdown'
        for b in blocks('sh', c.source)
        for l in b.splitlines()
        if l.startswith('torchrun')
    ]
    for what, by in (
        ('--nproc_per_node 4', '--nproc_per_node 1'),
        ('10.0.0.1', '127.0.0.1'),
        ('29500', str(port)),
        ('train.py clips', 'videos/train.py videos'),
        ('torchrun', f'{sys.executable} -m torch.distributed.run'),
    ):
        lines = [l.replace(what, by) for l in lines]
    assert len(lines) == 2
    running = [
        subprocess.Popen(shlex.split(l), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for l in lines
    ]
    out = [p.communicate(timeout=300) for p in running]
    assert [p.returncode for p in running] == [0, 0], out
    assert [f'process {i} of 2' in o for i,(o,_) in enumerate(out)] == [True, True], out

def test_the_commands_of_contributing(tmp_path, monkeypatch):
    "Exported, cleaned, run and made again, the notebooks and README stay as they are; `nbdev-test`, `pytest` and what installs are CI's, the wheel has a test of its own, benchmarks are run by hand"
    git = lambda *args: subprocess.run(
        ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *args],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in (
        'nbs',
        'fastai_seq',
        'tests',
        'benchmarks',
        'pyproject.toml',
        'settings.ini',
        'setup.py',
        'README.md',
        'LICENSE',
        '.gitignore',
    ):
        if (root / name).is_dir():
            shutil.copytree(
                root / name,
                tmp_path / name,
                ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '*.jsonl'),
            )
        else:
            shutil.copy(root / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    git('init', '-q')
    git('add', '-A')
    git('commit', '-qm', 'as it is')
    commands = dict.fromkeys(re.findall(r'`((?:nbdev-|jupyter |python )[^`]+)`|&& (nbdev-install-hooks)', contributing))
    commands = [c for pair in commands for c in pair if c and not c.startswith(('nbdev-test', 'python '))]
    assert [c.split()[0] for c in commands] == [
        'nbdev-install-hooks',
        'jupyter',
        'nbdev-export',
        'nbdev-bump-version',
    ], commands
    for c in commands[:-1]: subprocess.run(c.replace('data.load', 'files'), shell=True, check=True, capture_output=True)
    assert (
        not git('status', '--porcelain', '--', 'fastai_seq', 'README.md')
        and len(git('status', '--porcelain').splitlines()) <= 3
    )  # the notebook that was run, git's attributes
    before = (tmp_path/'fastai_seq/__init__.py').read_text()
    subprocess.run(commands[-1], shell=True, check=True, capture_output=True)
    assert (tmp_path/'fastai_seq/__init__.py').read_text() != before
