"""Ours against the walk-through's functions (seed.py), which do the same work: extract a video, and read clips.

    python benchmarks/walk_through.py [folder of videos; default ../shared/gestures, else made clips]

Each line: CPU time of this process, one thread, runs interleaved, median of the runs; the ratio is reference / ours.
The frames of the videos are counted before the clock starts, as check_clips does once before training."""
import os, sys, tempfile, time
from importlib.metadata import version
from pathlib import Path
from statistics import median

os.environ['OMP_NUM_THREADS'] = '1'
sys.path.insert(0, str(Path(__file__).parent))
import torch
torch.set_num_threads(1)
import seed
from fastai.vision.all import Pipeline, Resize, ToTensor
from fastai_seq.data import ImageTupleTfm, TensorVideoTfm
from fastai_seq.datasets import motion_clips
from fastai_seq.sampling import FirstFrames, UniformFrames
from fastai_seq.video import avi2frames, get_videos, n_frames

here = Path(__file__).parent
tmp = tempfile.TemporaryDirectory()
work = Path(tmp.name)
default = here/'../../shared/gestures'
src = Path(sys.argv[1]) if len(sys.argv) > 1 else default if default.is_dir() else motion_clips(work/'clips')
videos = get_videos(src).sorted()[::12][:20]

def cpu(f):
    "CPU milliseconds an item that `f` takes over the videos"
    start = time.process_time()
    for v in videos: f(v)
    return (time.process_time() - start)*1000/len(videos)

def compare(name, reference, ours, runs=5):
    "A line of the table: medians of interleaved runs"
    times = [(cpu(reference), cpu(ours)) for _ in range(runs)]
    a,b = (median(t) for t in zip(*times))
    row = [name, f'{a:.1f}', f'{b:.1f}', f'{a/b:.2f}x']
    print(*row, sep='\t', flush=True)
    return row

frames = work/'frames'
for v in videos: avi2frames(v, frames); n_frames(v)
folder = lambda v: frames/v.parent.name/v.stem
def reader(tfm, size): return Pipeline([tfm, Resize(size), ToTensor()], split_idx=1)

rows = [compare('extract a clip to JPEG', lambda v: seed.avi2frames(v, work/'a', force=True), lambda v: avi2frames(v, work/'b', force=True))]
for n,size in ((5,64), (16,112), (8,224)):
    ref, tup = reader(seed.ImageTupleTfm(n), size), reader(ImageTupleTfm(n), size)
    first, spread = (TensorVideoTfm(n, size, sampler=s) for s in (FirstFrames, UniformFrames))
    rows += [compare(f'{n} x {size} px: ImageTuple, frames on disk', lambda v: ref(folder(v)), lambda v: tup(folder(v))),
             compare(f'{n} x {size} px: TensorVideo, frames on disk', lambda v: ref(folder(v)), lambda v: first(folder(v))),
             compare(f'{n} x {size} px: TensorVideo, straight from video, over the whole clip', lambda v: ref(folder(v)), spread)]

line = lambda cells: f"| {' | '.join(cells)} |\n"
(here/'walk_through.md').write_text(line(['one clip', "walk-through's, ms", 'ours, ms', 'ratio']) + line(['---']*4) + ''.join(map(line, rows)) +
    f"\n{len(videos)} videos of {src.resolve().name}; CPU time of one thread, median of 5 interleaved runs; the videos' frames are counted beforehand, as check_clips does before training; torch {version('torch')}, av {version('av')}. "
    "Written by `benchmarks/walk_through.py`.\n")
