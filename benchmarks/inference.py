"""Long videos and streams: a timeline against `learn.predict` on each window, what a streamed frame costs, memory over an hour of video.

    python benchmarks/inference.py [section …]

Times are CPU seconds of one process with one thread, ratios reference/ours in the same run (above 1: ours is faster), answers compared
before. Peak memory is VmHWM of a fresh process. Videos are made: smooth noise that moves, 30 frames a second. Sections: timeline, stream,
memory; one that is not named keeps what inference.md says of it."""

import os, re, subprocess, sys, tempfile, time, warnings
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault('OMP_NUM_THREADS', '1')
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('agg')
import numpy as np
import torch
from fastai.layers import SimpleCNN
from PIL import Image
from torchvision.models import mobilenet_v2, resnet18
from torchvision.models.video import r3d_18
from common import line, source, write_sections
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.datasets import motion_clips
from fastai_seq.train.learner import seq_learner
from fastai_seq.video.sampling import FirstFrames, UniformFrames
from fastai_seq.deploy.stream import StreamPredictor
from fastai_seq.deploy.stream_memory import FrameRing
from fastai_seq.deploy.predict_timeline import predict_timeline
from fastai_seq.video.clip import VideoRange
from fastai_seq.video.files import write_video
from fastai_seq.video.read import n_frames

here = Path(__file__).parent
work = Path(tempfile.mkdtemp())
cnn = partial(SimpleCNN, [3, 16, 32, 64])

def learner(arch, head='mean', sampler=UniformFrames, size=112, seq_len=8, **kwargs):
    clips = (
        motion_clips(work / 'clips', n_classes=2, n_groups=4, clips_per_group=3, n_frames=12)
        if not (work / 'clips').exists()
        else work / 'clips'
    )
    dls = ImageSeqDataLoaders.from_folder(
        clips, seq_len=seq_len, size=size, bs=8, seed=0, num_workers=0, sampler=sampler
    )
    learn = seq_learner(dls, arch, head=head, pretrained=False, **kwargs)
    learn.remove_cb(learn.progress)
    return learn

def video(seconds, w, h, codec='mpeg4', fps=30):
    "A made video of so many seconds"
    path = work/f'{seconds}_{w}_{codec}.mp4'
    if not path.exists():
        big = np.asarray(
            Image.fromarray(
                np.random.default_rng(0).integers(0, 256, (h // 16, w // 8, 3), dtype=np.uint8)
            ).resize((2 * w, h), Image.BILINEAR)
        )
        write_video(path, (big[:, (o := 3*i % w):o+w] for i in range(fps*seconds)), fps, codec)
    return path

def cpu(f):
    start = time.process_time()
    res = f()
    return res, time.process_time() - start

def timeline():
    "`predict_timeline` (window 2 s, stride 0.5 s, 8 frames of 112 pixels a window) against `learn.predict` on each window"
    text = line(['video, 30 s', 'model', 'windows', 'timeline, s', 'predict, s', 'ratio']) + line(['---']*6)
    for (w, h), codec in (((320, 240), 'mpeg4'), ((1280, 720), 'libx264'), ((1920, 1080), 'libx264')):
        path = video(30, w, h, codec)
        n_frames(path)      # counted once a process, by whatever comes first
        for name, arch, sampler in (
            ('small CNN', cnn, UniformFrames),
            ('mobilenet_v2', mobilenet_v2, UniformFrames),
            ('resnet18', resnet18, UniformFrames),
            ('resnet18, each 5th frame', resnet18, FirstFrames(8, stride=5)),
        ):
            learn = learner(arch, sampler=sampler)
            tl, ours = cpu(lambda: predict_timeline(learn, path, progress=False))
            ranges = [VideoRange(path, o.start, o.end) for o in tl.df.itertuples()]
            ref, theirs = cpu(lambda: [learn.predict(r)[2].tolist() for r in ranges])
            assert np.allclose(tl.values, ref, atol=1e-4)
            text += (
                row := line([
                    f"{w}x{h}, {codec}",
                    name,
                    len(ranges),
                    f'{ours:.2f}',
                    f'{theirs:.2f}',
                    f'{theirs/ours:.1f}x',
                ])
            )
            print(row, end='', flush=True)
    return text

def stream():
    "A streamed frame, 320x240, against asking the model about the last 8 frames as a clip at each frame"
    text = line(['model', 'keeps', 'a frame, ms', 'as a clip, ms', 'ratio']) + line(['---']*5)
    frames = [
        np.asarray(Image.fromarray(np.random.default_rng(i).integers(0, 256, (240, 320, 3), dtype=np.uint8)))
        for i in range(30)
    ]
    for name, arch, head in (
        ('mobilenet_v2, lstm', mobilenet_v2, 'lstm'),
        ('resnet18, convgru', resnet18, 'convgru'),
        ('resnet18, attention', resnet18, 'attention'),
        ('r3d_18', r3d_18, 'mean'),
    ):
        learn = learner(arch, head)
        s, whole, ours, theirs = StreamPredictor(learn), StreamPredictor(learn), [], []
        whole.memory = FrameRing(learn.model, 8)
        for f in frames:
            ours.append(cpu(lambda: s.push(f))[1])
            theirs.append(cpu(lambda: whole.push(f))[1])
        a, b = (1000*median(o[10:]) for o in (ours, theirs))
        text += (
            row := line([
                name,
                {'RecurrentState': 'its state', 'FeatureRing': '8 features', 'FrameRing': '8 frames'}[
                    type(s.memory).__name__
                ],
                f'{a:.1f}',
                f'{b:.1f}',
                f'{b/a:.1f}x',
            ])
        )
        print(row, end='', flush=True)
    return text

def peak(seconds):
    learn = learner(cnn, size=64)
    path = video(int(seconds), 160, 120)
    predict_timeline(learn, video(10, 160, 120), progress=False)
    kb = lambda: int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])
    before = kb()
    tl, secs = cpu(lambda: predict_timeline(learn, path, progress=False))
    print(before/1024, kb()/1024, len(tl.df), secs)

def memory():
    "Peak memory of a process that makes a timeline, 160x120, before (a timeline of 10 s made) and after"
    text = line(['video', 'windows', 'before, MB', 'peak, MB', 'more, MB', 'CPU, s']) + line(['---']*6)
    for name, secs in (('1 min', 60), ('10 min', 600), ('60 min', 3600)):
        a, b, n, s = subprocess.run(
            [sys.executable, __file__, '--peak', str(secs)], capture_output=True, text=True, check=True
        ).stdout.split()[-4:]
        text += (
            row := line(
                [name, n, f'{float(a):.0f}', f'{float(b):.0f}', f'{float(b)-float(a):.0f}', f'{float(s):.0f}']
            )
        )
        print(row, end='', flush=True)
    return text

sections = {'timeline': timeline, 'stream': stream, 'memory': memory}

if __name__ == '__main__':
    torch.set_num_threads(1)
    (
        peak(sys.argv[2])
        if sys.argv[1:2] == ['--peak']
        else write_sections(
            here / 'inference.md',
            'Inference',
            sections,
            sys.argv[1:],
            f"One thread; {source('torch', 'torchvision', 'fastai', 'av')}",
        )
    )
