"The blocks of Python and the `fastai-seq` lines of README run, but for sizes, epochs, downloads, an archive and a camera, in a folder such as it speaks of."
import re, shlex, shutil

import pytest, timm, torchvision

import fastai_seq.all as lib
from conftest import root
from fastai_seq import cli

text = (root/'README.md').read_text(encoding='utf-8')
smaller = {r'size=\d+': 'size=32', r'--size \d+': '--size 32', r'seq_len=\d+': 'seq_len=4', r'(Random(?:Resized)?Crop)\(\d+': r'\1(24', r'fine_tune\(\d+': 'fine_tune(1',
           r'(fit_one_cycle|fit_head)\(\d+': r'\1(1', r'n_in=10, n_out=10': 'n_in=4, n_out=4', r'n_clips=10': 'n_clips=2', 'rtsp://camera': 'new.mp4',
           r'fastai-seq train videos': 'fastai-seq train videos --epochs 1 --size 32 --seq_len 2'}

def blocks(language):
    "The blocks of code in `language`, made small"
    for block in re.findall(rf'```{language}\n(.*?)```', text, re.S):
        for what,by in smaller.items(): block = re.sub(what, by, block)
        yield block

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
        for c in ('Archery', 'Bowling'): lib.write_video(f'ucf/{c}/v_{c}_g{i+1:02}_c01.avi', lib.read_frames(f, range(12)), fps=20)
    for name in ('new', 'match'): shutil.copy('videos/Run/run_001.mp4', f'{name}.mp4')
    lib.torch.save(torchvision.models.resnet18().state_dict(), 'resnet18.pth')
    return tmp_path

def test_the_python_of_readme(videos, monkeypatch):
    monkeypatch.setattr(lib, 'motion_clips', lambda: videos/'videos')
    monkeypatch.setattr(lib, 'untar_ucf101', lambda: videos/'ucf')
    monkeypatch.setattr(lib, 'extract_archive', lambda path: path)       # there is no videos.rar
    scope, ran = {}, 0
    for block in blocks('python'):
        exec(block, scope)
        ran += 1
        if (videos/'videos/model.pkl').exists(): shutil.copy('videos/model.pkl', 'model.pkl')
    assert ran > 6
    for made in ('report.html', 'match.html', 'model/model.safetensors', 'model.onnx', 'goes_on.mp4', 'new.html', 'frames/manifest.json', 'cache'): assert (videos/made).exists(), made

def test_the_commands_of_readme(videos, monkeypatch, capsys):
    served = []
    monkeypatch.setattr('gradio.Blocks.launch', lambda self, **kwargs: served.append(kwargs))
    shutil.copy('new.mp4', 'again.mp4')
    lines = [l.split(' #')[0].strip() for b in blocks('sh') for l in b.splitlines() if l.startswith('fastai-seq')]
    assert len(lines) > 6
    for l in lines:
        words = [str(f) for w in shlex.split(l)[1:] for f in (sorted(p.name for p in videos.glob(w)) if '*' in w else [w])]
        assert cli.main(words) == 0, (l, capsys.readouterr().err)
        if words[0] == 'train': shutil.copy('fastai_seq_train/model.pkl', 'model.pkl')
    assert len(served) == 1 and (videos/'model.onnx').exists() and (videos/'frames/manifest.json').exists()
