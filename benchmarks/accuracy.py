"""What a recipe is worth: the walk-through's and ours, on the same cores, from files to an accuracy on held-out clips.

    python benchmarks/accuracy.py [gestures | motion …]

Gestures: ../shared/gestures, 8 classes in four pairs of opposite motion; six recordings that are there twice are used once.
`groups`: whole recording groups held out (GroupSplitter, its seed the trial's); `last fifth`: the last six recordings of each class, which
cuts through groups; `random`: single clips. The walk-through's recipe: MobileNetV2 with ImageNet's weights, an LSTM, the first 5 frames, `fine_tune(4, 5e-3)`,
with ours in place of its classes (see models.md); its accuracy is the last epoch's. Motion: made clips, four directions.
CPU seconds count all that a recipe does, from opening the first file: reading, features, training, evaluation. One thread.
"""

import json, os, sys, tempfile, time, warnings
from functools import partial
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'
warnings.simplefilter('ignore')
import matplotlib
matplotlib.use('agg')
import numpy as np, torch, torch.nn.functional as F
from torch import nn
from torchvision.models import mobilenet_v2
torch.set_num_threads(1)
from fastprogress import fastprogress
from common import line, source
from fastai_seq.all import *
from itertools import product
fastprogress.NO_BAR = True

here = Path(__file__).parent
shared = (here/'../../shared').resolve()
weights = shared/'weights/mobilenet_v2_imagenet.pth'

# ---- which clips, and which of them are held out

def once(files):
    "`files` without copies of others"
    seen = {f.read_bytes(): f for f in reversed(files)}
    return L(f for f in files if seen[f.read_bytes()] == f)

def last_fifth(files):
    "Hold out the last six recordings of each class"
    number = lambda i: int(files[i].stem.split('_c')[-1])
    out = [
        i
        for c in {f.parent.name for f in files}
        for i in sorted((i for i, f in enumerate(files) if f.parent.name == c), key=number)[-6:]
    ]
    return [i for i in range(len(files)) if i not in out], sorted(out)

splits = {
    'groups': lambda seed: GroupSplitter(seed=seed),
    'last fifth': lambda seed: last_fifth,
    'random': lambda seed: GroupSplitter(str, seed=seed),
}

# ---- recipes: from files to an accuracy, or to probabilities and classes of the clips held out

def answers(learn, n_clips):
    ev = evaluate_clips(learn, n_clips=n_clips)
    return ev.preds, ev.targets


def clips_of(files, split, **kwargs):
    return ImageSeqDataLoaders.from_lists(
        '.', files, files.map(parent_label), splitter=split(files), num_workers=0, **kwargs
    )


def walk_through(
    files, split, seed, tmp, arch=mobilenet_v2, pretrained=weights, sampler=partial(FirstFrames, 5), size=112
):
    "The walk-through's"
    dls = clips_of(files, split, sampler=sampler(), size=size, bs=8, batch_tfms=Normalize.from_stats(*imagenet_stats))
    learn = Learner(
        dls, RNNModel(arch, n_out=dls.c, pretrained=pretrained), splitter=rnnmodel_splitter, metrics=accuracy
    )
    learn.freeze()
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(4, 5e-3)
    return learn.final_record[-1]


def kept_features(files, split, seed, tmp, size=(112,150)):
    "Features of the frozen encoder computed once, a small GRU both ways"
    dls = clips_of(files, split, seq_len=12, size=size, method='squish', sampler=SegmentFrames, bs=16)
    learn = seq_learner(
        dls,
        mobilenet_v2,
        head='gru',
        pretrained=weights,
        hidden_size=96,
        bidirectional=True,
        p=0.5,
        metrics=accuracy,
        loss_func=LabelSmoothingCrossEntropyFlat(),
    )
    with learn.no_bar(), learn.no_logging(): learn.fit_head(40, 4e-3, looks=2)
    return answers(learn, 2)

class Moments(Module):
    "Frames to where their brightness is: whether there is any, centre, spread, tilt and mass `(N,7,1,1)`; black is background"
    n_features = 7
    def forward(self, x, lengths=None):
        x = x.amax(1)
        w, h = (torch.linspace(-1, 1, n) for n in x.shape[:0:-1])
        h, m = h*len(h)/len(w), x.sum((1,2))
        px, py = (x.sum(d)/(m[:,None] + 1e-3) for d in (1,2))
        cx, cy = (px*w).sum(1), (py*h).sum(1)
        spread = [((p*g**2).sum(1) - c**2).clamp(min=1e-6).sqrt() for p,g,c in ((px,w,cx), (py,h,cy))]
        tilt = (x*h[:,None]*w).sum((1,2))/(m + 1e-3) - cx*cy
        there = (m > 3).float()
        return torch.stack(
            [
                there,
                3 * cx * there,
                3 * cy * there,
                *(12 * s * there for s in spread),
                100 * tilt * there,
                m / 60,
            ],
            1,
        )[..., None, None]

class MotionHead(Head):
    "What a frame shows, and how it differs from the one before, through a GRU both ways; mean and maximum are classified"
    def __init__(self, n_features, n_out, dim=48, hidden_size=64, p=.3):
        self._pools(n_features, 1)
        self.inp, self.drop, self.out = nn.Linear(n_features, dim), nn.Dropout(p), nn.Linear(4*hidden_size, n_out)
        self.rnn = nn.GRU(2*dim, hidden_size, batch_first=True, bidirectional=True)

    def forward(self, x, lengths=None):
        x = self.inp(self.vectors(x)).relu()
        x = self.rnn(self.drop(torch.cat([x, F.pad(x[:,1:] - x[:,:-1], (0,0,1,0))], -1)))[0]
        return self.out(self.drop(torch.cat([x.amax(1), x.mean(1)], -1)))

mirror = {'CCWRotation': 'CWRotation', 'VSwipingLeft': 'VSwipingRight'}

def where_it_is(files, split, seed, tmp, n_models=1, size=(48,64)):
    "No image network at all: where the hand is in each frame, from clips moved, turned, scaled, mirrored and played at another speed; `n_models` averaged"
    cache_clips(files[0].parent.parent, tmp, size=size)
    kept, probs = L(tmp/f.parent.name/f.stem for f in files), 0
    tfms = [
        LabelledFlip(mirror),
        *aug_transforms(
            do_flip=False,
            max_rotate=8.0,
            max_zoom=1.3,
            min_zoom=0.75,
            max_warp=0.0,
            max_lighting=0.0,
            p_affine=1.0,
            pad_mode='zeros',
        ),
    ]
    dls = clips_of(
        kept,
        lambda _: split(files),
        seq_len=30,
        size=size,
        method='squish',
        sampler=SegmentFrames,
        bs=32,
        item_tfms=SpeedJitter(),
        batch_tfms=tfms,
    )
    for k in range(n_models):
        set_seed(seed + 100*k)
        learn = Learner(
            dls,
            SeqModel(Moments(), MotionHead(Moments.n_features, dls.c)),
            loss_func=LabelSmoothingCrossEntropyFlat(),
            metrics=accuracy,
            wd=0.05,
        )
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(80, 4e-3)
        p, targets = answers(learn, 5)
        probs = probs + p/n_models
    return probs, targets

def both(files, split, seed, tmp):
    "Three that know where the hand is and one that knows how it looks, averaged"
    (place, targets), (look, _) = where_it_is(files, split, seed, tmp, 3), kept_features(files, split, seed, tmp)
    return (3*place + look)/4, targets

tiny = partial(SimpleCNN, [3,16,32,64,64])

def from_scratch(files, split, seed, tmp):
    "A small network that keeps a map of each frame, 8 frames of the whole clip, an LSTM"
    dls = clips_of(files, split, seq_len=8, size=64, bs=16)
    learn = seq_learner(dls, tiny, head='lstm', pretrained=False, hidden_size=128, pool_size=4, metrics=accuracy)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(10, 4e-3)
    return answers(learn, 2)

# ---- the tables

kept = here/'accuracy.jsonl'     # a trial a line, until all are done: what was interrupted goes on
def done(): return [json.loads(l) for l in kept.read_text().splitlines()] if kept.exists() else []

def trials(data, files, rows):
    for seed, (name, split, recipe) in product(range(3), rows):
        what = dict(data=data, recipe=name, split=split, seed=seed)
        if any(what.items() <= o.items() for o in done()): continue
        set_seed(seed)
        with tempfile.TemporaryDirectory() as tmp:
            start = time.process_time()
            res = recipe(files, splits[split](seed), seed, Path(tmp)/'kept')
            what |= dict(
                accuracy=float((res[0].argmax(1) == res[1]).mean()) if isinstance(res, tuple) else res,
                seconds=time.process_time() - start,
            )
        with kept.open('a') as f: print(json.dumps(what), file=f)
        print(what, flush=True)

def table(data, rows):
    head = ['recipe', 'held out', 'accuracy', 'of each seed', 'CPU s']
    text = line(head) + line(['---']*5)
    for name, split, _ in rows:
        of = [o for o in done() if (o['data'], o['recipe'], o['split']) == (data, name, split)]
        accs = [o['accuracy'] for o in of]
        if of:
            text += line([
                name,
                split,
                f'{np.mean(accs):.3f}',
                ', '.join(f'{a:.3f}' for a in accs),
                f"{np.mean([o['seconds'] for o in of]):.0f}",
            ])
    return text

def gestures():
    return once(get_instances(shared / 'gestures')), [
        ("walk-through's", 'groups', walk_through),
        ('ours: where the hand is (3 models), how it looks (1)', 'groups', both),
        ('ours: where the hand is (3 models), how it looks (1)', 'last fifth', both),
        ('ours: where the hand is (1 model)', 'groups', where_it_is),
        ('ours: how it looks (1 model)', 'groups', kept_features),
        ("walk-through's", 'random', walk_through),
    ]

def motion():
    path = motion_clips(n_classes=4, n_groups=24, clips_per_group=6)
    return get_instances(path), [
        ("walk-through's", 'groups', partial(walk_through, size=64)),
        (
            "walk-through's, from scratch",
            'groups',
            partial(walk_through, arch=tiny, pretrained=False, size=64),
        ),
        ('ours: from scratch, with places', 'groups', from_scratch),
    ]

if __name__ == '__main__':
    text, parts = '# Recipes\n', (gestures, motion)
    for f in parts:
        if not sys.argv[1:] or f.__name__ in sys.argv[1:]: trials(f.__name__, *f())
    for f,chance in zip(parts, ('0.125, 234 real clips', '0.25, 576 made clips')):
        if any(o['data'] == f.__name__ for o in done()):
            text += f"\n## {f.__name__}\n\nChance is {chance}.\n\n" + table(f.__name__, f()[1])
    text += f"\nOne thread; {source('torch', 'fastai')}"
    print(text)
    (here/'accuracy.md').write_text(text)
