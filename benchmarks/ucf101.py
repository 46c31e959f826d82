"""UCF101's three folds with one command: train, evaluate, and one table. Where it was stopped it goes on.

    python benchmarks/ucf101.py [FOLDER] [--arch r2plus1d_18] …
    python benchmarks/ucf101.py --made          no UCF101 here: prove on made clips that the way is open

FOLDER has a folder of videos a class; if it is left out, UCF101 is downloaded (7 GB). Each fold is trained on its official training groups
only, kept after each epoch, and evaluated with several clips a video (see `evaluate_clips`). Results go to `--out`: a folder for each
fold, and ucf101.md, the table. `--made` makes clips under UCF101's 101 class names, with its 25 groups, from the official lists of
../shared: a class is a spot's place and colour, so what is learned there means nothing; its table goes to ucf101_made.md.
"""

import argparse, os
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np, torch, torchvision
from fastai.layers import SimpleCNN
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import aug_transforms
from fastprogress.fastprogress import progress_bar
from common import line, source
from fastai_seq.train.resume import Resumable
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.split import UCF101Splitter
from fastai_seq.data.datasets import untar_ucf101
from fastai_seq.judge.folds import evaluate_folds
from fastai_seq.train.learner import seq_learner
from fastai_seq.video.sampling import SegmentFrames
from fastai_seq.video.files import write_video

here = Path(__file__).parent
lists = here/'../../shared/splits/ucf101'


def made_clips(dest, n_frames=8, px=32):
    "A clip for each class and group of the official lists: a bright spot that starts and moves as its class says, on its group's background"
    names = sorted({line.split('_c')[0] for f in lists.glob('t*list0?.txt') for line in f.read_text().splitlines()})
    classes = sorted({n.split('/')[0] for n in names})
    for name in progress_bar(names, leave=False):
        if (file := dest/f'{name}_c01.avi').exists(): continue
        k = classes.index(file.parent.name)
        frames = np.repeat(
            np.random.default_rng(crc32(name.encode())).integers(0, 90, (1, px, px, 3), dtype=np.uint8),
            n_frames,
            0,
        )
        for t in range(n_frames): frames[t, (k//10*3 + t) % (px-5):, k%10*3:][:5, :5] = [255, 128 + k, 255 - 2*k]
        write_video(file, frames, 8)
    return dest

def train(splitter, path, out, a):
    "A learner, trained on the training part that `splitter` gives; checkpoints lie in `out`"
    set_seed(a.seed)
    arch = partial(SimpleCNN, [3,16,32,64]) if a.made else torchvision.models.get_model_builder(a.arch)
    dls = ImageSeqDataLoaders.from_folder(
        path,
        splitter=splitter,
        seq_len=a.seq_len,
        size=a.size,
        sampler=SegmentFrames,
        bs=a.bs,
        seed=a.seed,
        num_workers=a.workers,
        batch_tfms=None if a.made else aug_transforms(max_rotate=0.0, max_warp=0.0),
    )
    of_fold = Path(out)/f"training_{splitter.keywords['fold']}"
    learn = seq_learner(
        dls,
        arch,
        head=a.head,
        pretrained=False if a.made else a.weights or True,
        metrics=accuracy,
        loss_func=LabelSmoothingCrossEntropyFlat(),
        path=of_fold,
        **(dict(pool_size=4) if a.made else {}),
    )
    if torch.cuda.is_available(): learn.to_fp16()
    if a.made:learn.fit_one_cycle(a.epochs, 4e-3, cbs=Resumable())
    else: learn.fine_tune(a.epochs, 2e-3, cbs=Resumable())
    return learn

def options():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('path', nargs='?', type=Path, help='folder of UCF101: a folder of videos a class')
    ap.add_argument('--made', action='store_true', help="made clips under UCF101's names")
    ap.add_argument('--out', type=Path, default=Path('ucf101_results'), help='folder for results and checkpoints')
    for k, v, h in (
        ('arch', 'resnet34', "torchvision's name of an image or video network"),
        ('head', 'lstm', 'what joins the frames'),
        ('weights', None, 'local weights; downloaded if left out'),
        ('epochs', 10, ''),
        ('seq-len', 16, 'frames a clip'),
        ('size', 112, 'pixels'),
        ('bs', 32, 'clips a batch'),
        ('n-clips', 10, 'looks a video'),
        ('workers', min(8, os.cpu_count()), 'processes that load'),
        ('seed', 0, ''),
    ):
        ap.add_argument(f'--{k}', type=type(v) if v is not None else str, default=v, help=h)
    return ap.parse_args()

if __name__ == '__main__':
    a = options()
    if a.made:
        a.path = made_clips(a.out/'clips')
        a.seq_len, a.size, a.epochs, a.workers, a.n_clips = 4, 32, 3, 0, 2
    path = a.path or untar_ucf101()
    told = {k: str(v) for k,v in vars(a).items() if k not in ('out', 'workers')}
    df = evaluate_folds(
        partial(train, path=path, out=a.out, a=a),
        a.out,
        settings=told,
        splitter=UCF101Splitter,
        n_clips=a.n_clips,
    )
    how = (
        'made clips under the names of UCF101: the way is open, the numbers mean nothing'
        if a.made
        else (
            f'{a.arch}, {a.head}, {a.epochs} epochs, {a.seq_len} frames of {a.size} px, {a.n_clips} looks a'
            ' video'
        )
    )
    df = df.round(4).reset_index()
    text = (
        line(df.columns)
        + line(['---'] * len(df.columns))
        + ''.join(map(line, df.values))
        + f"\nUCF101, official folds, {how}; seed {a.seed};"
        f" {source('torch', 'fastai', gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None)}"
    )
    print(text)
    (here/'ucf101_made.md' if a.made else a.out/'ucf101.md').write_text(text)
