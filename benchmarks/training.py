"""What the callbacks of training save, and what they cost.

    python benchmarks/training.py

Growing clips and averaged weights: clips made by `motion_clips`, two classes, groups held out, a small convolutional network with an LSTM
from scratch, the same number of epochs each; CPU seconds of the whole training (reading and validation too) and accuracy, means over the seeds.
Steps: forward and backward of resnet18 and an LSTM in CPU seconds, medians of runs that are interleaved; ratios are to the first row. One thread.
"""

import os, tempfile, time, warnings
from functools import partial
from pathlib import Path
from statistics import mean, median

os.environ |= {'OMP_NUM_THREADS': '1'}
warnings.simplefilter('ignore')
import torch
torch.set_num_threads(1)
from fastai.vision.all import Learner, SimpleCNN, accuracy, resnet18, set_seed
from common import source
from fastai_seq.train.callbacks import EMA
from fastai_seq.train.progressive import ProgressiveClips
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.datasets import motion_clips
from fastai_seq.walkthrough import RNNModel

here, lines = Path(__file__).parent, []
def say(line=''):
    print(line, flush=True)
    lines.append(line)

def train(path, seed, epochs, cbs):
    set_seed(seed)
    dls = ImageSeqDataLoaders.from_folder(path, seq_len=8, size=48, bs=8, seed=seed, num_workers=0)
    learn = Learner(
        dls,
        RNNModel(partial(SimpleCNN, [3, 16, 32, 64]), n_out=2, pretrained=False, hidden_size=64, pool_size=4),
        metrics=accuracy,
        cbs=cbs,
    )
    start = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 4e-3)
    return time.process_time() - start, learn.final_record[-1]

def growing(path, epochs=12, seeds=(0,1,2)):
    ways = {
        'whole clips': lambda: [],
        'ProgressiveClips()': lambda: [ProgressiveClips()],
        'ProgressiveClips(((1,.7),))': lambda: [ProgressiveClips(((1, 0.7),))],
        "the paper's stages, pct=.75": lambda: [
            ProgressiveClips(((1 / 4, 0.7), (1 / 2, 0.7), (1 / 2, 1)), 0.75)
        ],
        'EMA()': lambda: [EMA()],
        'ProgressiveClips(), EMA()': lambda: [ProgressiveClips(), EMA()],
    }
    say(
        f'| {epochs} epochs, 8 frames of 48 px | CPU s | ratio | accuracy | of each seed |\n| --- | --- | ---'
        ' | --- | --- |'
    )
    for name,cbs in ways.items():
        res = [train(path, s, epochs, cbs()) for s in seeds]
        secs, acc = mean(r[0] for r in res), [r[1] for r in res]
        if name == 'whole clips': first = secs
        say(f"| {name} | {secs:.1f} | {secs/first:.2f}x | {mean(acc):.3f} | {', '.join(f'{a:.2f}' for a in acc)} |")

def steps(n=5, x=torch.rand(4,8,3,96,96)):
    def way(last=False, bf16=False, compiled=False):
        set_seed(0)
        model = RNNModel(resnet18, 10, pretrained=False)
        if last: model.to(memory_format=torch.channels_last)
        if compiled: model.compile()
        def step():
            with torch.autocast('cpu', torch.bfloat16, enabled=bf16): loss = model(x).float().square().mean()
            loss.backward()
        start = time.process_time()
        step()
        return step, time.process_time() - start
    ways = {
        'float32': {},
        'channels-last': dict(last=True),
        'bf16': dict(bf16=True),
        'bf16, channels-last': dict(bf16=True, last=True),
        'torch.compile': dict(compiled=True),
        'torch.compile, channels-last': dict(compiled=True, last=True),
        'torch.compile, bf16, channels-last': dict(compiled=True, bf16=True, last=True),
    }
    made, times = {k: way(**v) for k,v in ways.items()}, {k: [] for k in ways}
    for _ in range(n):
        for k,(step,_) in made.items():
            start = time.process_time()
            step()
            times[k].append(time.process_time() - start)
    say(f'| a step of {"x".join(map(str, x.shape))} | CPU s | ratio | first step, s |\n| --- | --- | --- | --- |')
    for k, t in times.items():
        say(f"| {k} | {median(t):.2f} | {median(t)/median(times['float32']):.2f}x | {made[k][1]:.1f} |")

if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as tmp:
        growing(
            motion_clips(
                Path(tmp) / 'clips', n_classes=2, n_groups=20, clips_per_group=4, n_frames=16, size=(64, 64)
            )
        )
    say()
    steps()
    flags = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    say(
        f"\nOne thread; a processor {'with' if 'avx512_bf16' in flags or 'amx_bf16' in flags else 'without'}"
        f" instructions for bf16; {source('torch', 'fastai')}".rstrip()
    )
    (here/'training.md').write_text('\n'.join(lines) + '\n', encoding='utf-8')
