"""Which heads understand motion: made clips in which nothing but the order of frames tells a class from its opposite.

    python benchmarks/motion.py

Four motions in two pairs of opposites, 24 recording groups of 6 clips a class, a fifth of the groups held out, split and
weights by three seeds. Every model has the same small image network from scratch ('shift': one of residual blocks), the same loader (8 uniform frames, 64 px),
5 epochs, or 12 where order is seen, and a highest learning rate of 4e-3; 20 epochs and 1e-3 for the transformer. The trained model is then asked again with the frames of each held-out clip shuffled, and with
its middle frame alone, repeated. `within pairs` is the share of clips for which the model prefers the true class to its
opposite, whatever it thinks of the other pair: chance is 0.5 there, for a model that is blind to order it is exactly chance
in expectation."""

import json, os, tempfile
from functools import partial
from itertools import product
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', str(os.cpu_count()))
import pandas as pd, torch
from torch import nn
from torchvision.models.resnet import BasicBlock
from fastai.layers import ConvLayer, SimpleCNN
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from common import line, source
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.datasets import motion_clips
from fastai_seq.video.cache import cache_clips
from fastai_seq.train.learner import seq_learner

here = Path(__file__).parent
kept = here/'motion.jsonl'     # a trial a line, until all are done: what was interrupted goes on
def rows(): return [json.loads(l) for l in kept.read_text().splitlines()] if kept.exists() else []

cnn = partial(SimpleCNN, [3,16,32,64,64])

def residual(n_out=2):
    "As deep, of the residual blocks in which a temporal shift has its place"
    down = lambda i,o: BasicBlock(i, o, 2, nn.Sequential(nn.Conv2d(i, o, 1, 2, bias=False), nn.BatchNorm2d(o)))
    return nn.Sequential(
        ConvLayer(3, 16, stride=2),
        down(16, 32),
        down(32, 64),
        down(64, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, n_out),
    )

blind, aware = {k: dict(epochs=5) for k in ('mean', 'avg', 'max', 'attention')}, dict(
    lstm=dict(hidden_size=128, pool_size=4),
    gru=dict(hidden_size=128, pool_size=4),
    convlstm={},
    convgru={},
    transformer=dict(pool_size=4, lr=1e-3, epochs=20),
    shift=dict(arch=residual),
    diff=dict(pool_size=4),
)

def right(probs, y):
    "Accuracy, and the share of clips in which the true class beats its opposite (in alphabetical order: down, left, right, up)"
    return (probs.argmax(1) == y).float().mean().item(), (
        probs.gather(1, y[:, None]) > probs.gather(1, (y ^ 3)[:, None])
    ).float().mean().item()

def asked(learn, change):
    "Answers for the held-out clips, their frames changed"
    learn.model.eval()
    with torch.no_grad(): probs, ys = zip(*[(learn.model(change(x)).softmax(1), y) for x, y in learn.dls.valid])
    return right(torch.cat(probs), torch.cat(ys).long())

changes = {
    'as they are': lambda x: x,
    'shuffled': lambda x: torch.stack([c[torch.randperm(len(c))] for c in x]),
    'one frame': lambda x: x[:, [x.shape[1] // 2]].expand_as(x),
}

def trial(path, head, seed, epochs=12, lr=4e-3, arch=cnn, **kwargs):
    set_seed(seed)
    dls = ImageSeqDataLoaders.from_folder(path, seq_len=8, size=64, bs=16, seed=seed, num_workers=0, device='cpu')
    learn = seq_learner(dls, arch, head=head, pretrained=False, metrics=accuracy, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    res = {}
    for k, change in changes.items(): res[k], res[f'{k}, within pairs'] = asked(learn, change)
    return dict(head=head, seed=seed, **res)

def table(df):
    "A row a head: mean over the seeds, the least and the greatest of them"
    cols = [k for k in df.columns if k not in ('head', 'seed')]
    text = line(['head', *cols]) + line(['---']*(len(cols)+1))
    for head, rows in df.groupby('head', sort=False):
        text += line(
            [head, *(f"{rows[k].mean():.3f} ({rows[k].min():.3f} to {rows[k].max():.3f})" for k in cols)]
        )
    return text

if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as tmp:
        clips = motion_clips(Path(tmp)/'clips', n_classes=4, n_groups=24, clips_per_group=6)
        cache_clips(clips, Path(tmp)/'cache', size=64)
        for (head, kwargs), seed in product((blind | aware).items(), range(3)):
            if any(r['head'] == head and r['seed'] == seed for r in rows()): continue
            with kept.open('a') as f: print(json.dumps(trial(Path(tmp)/'cache', head, seed, **kwargs)), file=f)
            print(rows()[-1], flush=True)
    text = (
        table(pd.DataFrame(rows()))
        + "\nAccuracy on held-out groups, chance 0.25 (within pairs 0.5): mean of three seeds (least to"
        f" greatest); {source('torch', 'fastai')}"
    )
    print(text)
    (here/'motion.md').write_text(text)
    kept.unlink()
