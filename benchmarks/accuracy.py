"""What is learnt in ten minutes: `train_clips`, the walk-through's recipe and the floor, from files to an accuracy on clips that were held out.

    python benchmarks/accuracy.py [gestures | lips_takes | lips_speakers | falls | motion …] [--minutes 10] [--seeds 0 1 2]

Real clips stand in ../shared: gestures (8 classes, recordings held out), lips (26 letters; each speaker's third take held out, or whole speakers),
falls (2 classes, events held out). Motion: made clips, four directions. Nothing is chosen by the clips held out; they are asked once.
`floor`: a logistic regression of small grey pixels. Walk-through: MobileNetV2 with ImageNet's weights, an LSTM, the first 5 frames,
`fine_tune(4, 5e-3)`. A file of weights takes the place of a download. Seconds are wall clock, from the first file to the answer, all cores.
A trial that is done is kept in accuracy.jsonl; delete its line to run it again.
"""

import argparse, json, os, tempfile, time, warnings
from pathlib import Path

warnings.simplefilter('ignore')
import matplotlib
matplotlib.use('agg')
import numpy as np
from fastprogress import fastprogress
from torchvision.models import mobilenet_v2
from common import line, source
from fastai_seq.all import *
from fastai_seq.video.sampling import FirstFrames, SegmentFrames
fastprogress.NO_BAR = True

here = Path(__file__).parent
shared = (here/'../../shared').resolve()
weights = shared/'weights/mobilenet_v2_imagenet.pth'

# ---- which clips, which of them are held out, and by what they are grouped

def once(path):
    "The clips in `path` without copies of others"
    files = get_instances(path)
    seen = {f.read_bytes(): f for f in reversed(files)}
    return L(f for f in files if seen[f.read_bytes()] == f)

def third_takes(files):
    held = [i for i, f in enumerate(files) if '_c003' in f.name]
    return [i for i in range(len(files)) if i not in set(held)], held

def gestures(seed): return once(shared/'gestures'), GroupSplitter(seed=seed), None
def lips_takes(seed): return once(shared/'lips'), third_takes, r'_(c\d+)'
def lips_speakers(seed): return once(shared/'lips'), GroupSplitter(r'_(g\d+)', seed=seed), r'_(g\d+)'
def falls(seed): return once(shared/'falls'), GroupSplitter(seed=seed), None
def motion(seed): return get_instances(motion_clips(n_classes=4, n_groups=24, clips_per_group=6)), GroupSplitter(seed=seed), None

sets = {f.__name__: f for f in (gestures, lips_takes, lips_speakers, falls, motion)}

# ---- recipes: from files to accuracies

def clips_of(files, splitter, **kwargs):
    return ImageSeqDataLoaders.from_lists('.', files, files.map(parent_label), splitter=splitter, num_workers=2, **kwargs)

def by_minutes(files, splitter, group, seed, minutes, path):
    "`train_clips` as the command has it, and what stands beside it"
    dls = clips_of(files, splitter, seq_len=16, size=112, method='squish', sampler=SegmentFrames, bs=8)
    learn = train_clips(dls, minutes, group=group, weights=weights, seed=seed, path=path)
    with learn.no_bar(): table = beside_floor(learn, n_boot=10)
    return dict(table.value)

def walk_through(files, splitter, group, seed, minutes, path):
    "The walk-through's"
    dls = clips_of(files, splitter, sampler=FirstFrames(5), size=112, bs=8, batch_tfms=Normalize.from_stats(*imagenet_stats))
    learn = Learner(dls, RNNModel(mobilenet_v2, n_out=dls.c, pretrained=weights), splitter=rnnmodel_splitter, metrics=accuracy)
    learn.freeze()
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(4, 5e-3)
    return dict(model=learn.final_record[-1])

recipes = {'train_clips': by_minutes, 'walk-through': walk_through}

# ---- trials and the table

kept = here/'accuracy.jsonl'
def done(): return [json.loads(o) for o in kept.read_text().splitlines()] if kept.exists() else []

def trial(data, recipe, seed, minutes):
    what = dict(data=data, recipe=recipe, seed=seed, minutes=minutes)
    if any(what.items() <= o.items() for o in done()): return
    set_seed(seed)
    with tempfile.TemporaryDirectory() as tmp:
        files, splitter, group = sets[data](seed)
        start = time.time()
        accuracies = recipes[recipe](files, splitter, group, seed, minutes, Path(tmp))
    what |= dict(seconds=round(time.time() - start), **{k: round(float(v), 4) for k, v in accuracies.items()})
    with kept.open('a') as f: print(json.dumps(what), file=f)
    print(what, flush=True)

def cell(values):
    return f"{np.mean(values):.3f} ({', '.join(f'{v:.2f}' for v in values)})" if values else ''

def table():
    text = line(['data', 'chance', 'majority', 'floor', 'walk-through', '**train_clips**', 'minutes', 'seconds']) + line(['---']*8)
    for data in sets:
        of = {recipe: [o for o in done() if (o['data'], o['recipe']) == (data, recipe)] for recipe in recipes}
        ours, theirs = of['train_clips'], of['walk-through']
        if not ours: continue
        beside = [f"{np.mean([o[k] for o in ours]):.3f}" for k in ('chance', 'majority class', 'linear floor')]
        text += line([data, *beside, cell([o['model'] for o in theirs]), cell([o['model'] for o in ours]),
                      ', '.join(sorted({f"{o['minutes']:g}" for o in ours})), round(np.mean([o['seconds'] for o in ours]))])
    return text

if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('sets', nargs='*', default=list(sets))
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument('--seeds', type=int, nargs='*', default=[0, 1, 2])
    args = parser.parse_args()
    for seed in args.seeds:
        for data in args.sets:
            for recipe in recipes: trial(data, recipe, seed, args.minutes)
            (here/'accuracy.md').write_text(f"# Accuracy in minutes\n\nMean over the seeds, and each of them.\n\n{table()}\n{source('torch', 'fastai')}")
    print((here/'accuracy.md').read_text())
