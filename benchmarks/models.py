"""Networks against their references: forward, forward and backward, peak memory; and what each costs, in one table.

    python benchmarks/models.py [section …]

A network and its reference take turns; a figure is the median of CPU seconds of one thread (on a GPU of wall clock, fp32 and bf16),
a ratio reference/ours in the same run (above 1: ours is faster). Peak memory is VmHWM of a fresh process that makes one training
step. Sections: heads, timesformer, video, costs; one that is not named keeps what models.md says of it."""

import os, re, subprocess, sys, time
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median

os.environ.setdefault('OMP_NUM_THREADS', '1')
import matplotlib
matplotlib.use('agg')
import torch
from torchvision.models import resnet18, video
from common import line, source, write_sections
from fastai_seq.core import ImageTuple
from fastai_seq.walkthrough import RNNModel, SimpleModel
from fastai_seq.models.speed import model_table, plot_models
from fastai_seq.models.hf_video import hf_video_model
from fastai_seq.models.timesformer import MyTimeSformer
from fastai_seq.models.vit_timesformer import timesformer_from_vit
from fastai_seq.models.videonets import VideoNet

here = Path(__file__).parent
devices = ['cpu'] + ['cuda']*torch.cuda.is_available()
head = ['network', 'batch', 'forward, ms', 'reference, ms', 'ratio', 'training step, ms', 'reference, ms', 'ratio']

def spent(f, device):
    "Seconds of one call: of the CPU's one thread, or until the GPU is done"
    if device == 'cpu':
        start = time.process_time()
        f()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    f()
    torch.cuda.synchronize()
    return time.perf_counter() - start

def passes(model, x, device, amp):
    "Functions for one pass forward in evaluation, and for one forward and backward in training"
    def forward():
        model.eval()
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=amp): model(x)
    def both():
        model.train().zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=amp): res = model(x)
        res.float().sum().backward()
    return forward, both

def versus(ours, ref, device, amp=False, n=5):
    "Cells of `head` from the second number on; `ours` and `ref` are pairs of model and batch"
    cells = []
    for way in zip(*[passes(m, x, device, amp) for m, x in (ours, ref)]):
        for f in way: f()
        runs = [
            [spent(f, device) for f in way[::step]][::step] for step in islice(cycle((1, -1)), n)
        ]  # each goes first in turn
        o, r = (median(v) for v in zip(*runs))
        cells += [f'{o*1e3:.0f}', f'{r*1e3:.0f}', f'{median(b/a for a, b in runs):.2f}x']
    return cells

def rows(pairs, batch, device, amps=None, n=5):
    "A row for each `name: (ours, ref)`, modules or pairs of module and batch"
    for name, pair in pairs.items():
        for amp in amps or ([False] if device == 'cpu' else [False, True]):
            ours, ref = (m if isinstance(m, tuple) else (m.to(device), batch) for m in pair)
            where = ('' if device == 'cpu' else 'GPU, ') + ('bf16' if amp else 'fp32')
            row = line([name, f"{' x '.join(map(str, batch.shape))}, {where}", *versus(ours, ref, device, amp, n)])
            print(row, end='', flush=True)
            yield row

# the walk-through's models

def heads():
    "`SimpleModel` and `RNNModel` against the walk-through's classes, resnet18"
    import seed
    text = line(head) + line(['---']*8)
    for device in devices:
        x = torch.rand(2, 8, 3, 112, 112, device=device)
        old = ImageTuple(x.unbind(1))
        pairs = {
            n: ((m(resnet18, 101, pretrained=False).to(device), x), (s(resnet18, 101).to(device), old))
            for n, m, s in (
                ('mean of logits', SimpleModel, seed.SimpleModel),
                ('LSTM', RNNModel, seed.RNNModel),
            )
        }
        text += ''.join(rows(pairs, x, device))
    return text

# TimeSformer

settings = {    # name: parameters, batch, dropout, rounds
    'dim 128, dropout 0.1': (dict(dim=128, num_frames=5, image_size=128), 4, .1, 5),
    'dim 512': (dict(dim=512, num_frames=8, image_size=224), 1, 0., 3)}

def timesformers(name):
    from timesformer_pytorch import TimeSformer
    kw, b, p, n = settings[name]
    return [
        partial(m, num_classes=101, depth=12, attn_dropout=p, ff_dropout=p, **kw)
        for m in (MyTimeSformer, TimeSformer)
    ], torch.rand(b, kw['num_frames'], 3, *[kw['image_size']] * 2)

def peak(name, which, amp):
    "MB of one training step, in a process of its own"
    return int(
        subprocess.run(
            [sys.executable, __file__, '--peak', name, str(which), str(int(amp))],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()[-1]
    )

def one_step(name, which, amp):
    models, x = timesformers(name)
    passes(models[int(which)](), x, 'cpu', amp == '1')[1]()
    print(int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])//1024)

def timesformer():
    "`MyTimeSformer` against timesformer-pytorch, depth 12; `timesformer_from_vit` against transformers' network of that shape"
    text = line(head) + line(['---']*8)
    memory = (
        '\n'
        + line(['peak memory of a training step', 'dtype', 'ours, MB', 'reference, MB', 'ratio'])
        + line(['---'] * 5)
    )
    for device in devices:
        for name in settings:
            models, x = timesformers(name)
            ours, ref = (m() for m in models)
            ours.load_state_dict(ref.state_dict())
            text += ''.join(
                rows(
                    {f'TimeSformer, {name}': (ours, ref)},
                    x.to(device),
                    device,
                    (False, True),
                    settings[name][-1],
                )
            )
            if device == 'cpu':
                for amp in (False, True):
                    a, b = (peak(name, which, amp) for which in (0, 1))
                    memory += line([name, 'bf16' if amp else 'fp32', a, b, f'{a/b:.2f}'])
        import timm
        from transformers import TimesformerConfig
        ref = hf_video_model(
            TimesformerConfig(image_size=112, hidden_size=384, num_attention_heads=6, intermediate_size=1536),
            n_out=101,
        )
        ours = timesformer_from_vit(timm.create_model('vit_small_patch16_224', img_size=112), 101, num_frames=8)
        text += ''.join(
            rows(
                {'timesformer_from_vit, ViT-S': (ours, ref)},
                torch.rand(1, 8, 3, 112, 112, device=device),
                device,
                (False, True),
                3,
            )
        )
    return text + memory

# video networks: wrapped by us, bare

def video_networks(t=8, px=112):
    "torchvision's video networks in `VideoNet`, against the same called by themselves with batches (B,C,T,H,W)"
    text = line(head) + line(['---']*8)
    for device in devices:
        x = torch.rand(2 if device == 'cpu' else 8, t, 3, px, px, device=device)
        for name in ('r3d_18', 'mc3_18', 'r2plus1d_18', 's3d', 'mvit_v2_s', 'swin3d_t'):
            model = VideoNet(getattr(video, name), 101, False, t, px).to(device)
            text += ''.join(rows({name: (model, (model.net, x.transpose(1, 2).contiguous()))}, x, device, n=3))
    return text

# what each costs

def costs(t=8, px=112):
    "Parameters, operations and speed"
    names = ['r3d_18', 'mc3_18', 'r2plus1d_18', 's3d', 'mvit_v1_b', 'mvit_v2_s', 'swin3d_t', 'swin3d_s', 'swin3d_b']
    models = {n: VideoNet(getattr(video, n), 101, False, t, px) for n in names}
    models |= {
        'resnet18, mean': SimpleModel(resnet18, 101, pretrained=False),
        'resnet18, lstm': RNNModel(resnet18, 101, pretrained=False),
        'TimeSformer, dim 512': MyTimeSformer(
            dim=512, image_size=px, patch_size=16, num_frames=t, num_classes=101
        ),
    }
    text = ''
    for device in devices:
        table = model_table(
            models, (1 if device == 'cpu' else 8, t, 3, px, px), device, n_runs=3 if device == 'cpu' else 20
        )
        cols = [c for c in ('params (M)', 'GFLOPs', 'peak MB', 'clips/s') if c in table]
        text += (
            f"\n{'One core' if device == 'cpu' else torch.cuda.get_device_name()}, fp32, {t} frames of {px}"
            " px:\n\n"
            + line(['network', *cols])
            + line(['---'] * (len(cols) + 1))
        )
        text += ''.join(
            line([n, *(f'{r[c]:.3g}' if r[c] < 100 else f'{r[c]:.0f}' for c in cols)])
            for n, r in table.sort_values('clips/s', ascending=False).iterrows()
        )
        if device == devices[-1]:
            plot_models(table, figsize=(7, 4.5)).figure.savefig(
                here / '../nbs/images/model_table.png', dpi=90, bbox_inches='tight'
            )
    return text + '\n![Operations against clips a second](../nbs/images/model_table.png)\n'

sections = {'heads': heads, 'timesformer': timesformer, 'video': video_networks, 'costs': costs}

if __name__ == '__main__':
    torch.set_num_threads(1)
    where = (
        "One thread;"
        f" {source('torch', 'torchvision', 'timesformer-pytorch', 'timm', 'transformers', gpu=torch.cuda.get_device_name() if 'cuda' in devices else None)}"
    )
    (
        one_step(*sys.argv[2:])
        if sys.argv[1:2] == ['--peak']
        else write_sections(here / 'models.md', 'Models', sections, sys.argv[1:], where)
    )
