"""Frames on disk, and frames out of a video: ours against the walk-through's function (seed.py), FFmpeg's command, torchcodec and decord.

    python benchmarks/extraction.py

Extraction: CPU time (user and system, with that of child processes), one thread each, runs interleaved, median; the folder is
emptied before the clock starts. PSNR is over all frames, against the decoded frame in RGB: as FFmpeg converts it by default
(which the walk-through's function does, and which rounds all colours down), and as the formula has it.
Two processes against one: wall-clock time of extract_dataset. Reading: 16 uniform frames at 112 pixels (the short side), from the opening of the file to
the array, CPU time of one thread; nothing is known of the file beforehand. torchcodec and decord are measured where installed.
"""

import os, resource, shutil, subprocess, sys, tempfile, time
from functools import partial
from pathlib import Path
from statistics import mean, median

os.environ |= {'OMP_NUM_THREADS': '1', 'DECORD_LOG_LEVEL': '-8'}
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from PIL import Image
from av.video.reformatter import VideoReformatter
import seed
import torch
torch.set_num_threads(1)
from common import line, source
from fastai_seq.data.datasets import motion_clips
from fastai_seq.video.extract import avi2frames, extract_dataset
from fastai_seq.video.sampling import UniformFrames
from fastai_seq.video.decode import OpenVideo, extract_frames
from fastai_seq.video.files import get_videos
from fastai_seq.video.read import n_frames, read_frames
from fastai_seq.video.scale import _exact
from fastai_seq.video.seek import _counted

here = Path(__file__).parent
tmp = tempfile.TemporaryDirectory(
    dir='/dev/shm' if Path('/dev/shm').is_dir() else None
)  # in memory: the disk's moods are not measured
work, shared = Path(tmp.name), here/'../../shared'
sets = {'made': get_videos(motion_clips(work/'clips', n_groups=1, clips_per_group=1, n_frames=60, size=(240, 320)))}
if shared.is_dir():
    sets = {
        'UCF101': (
            get_videos(shared / 'clips').filter(lambda f: f.name[:2] == 'v_')
        ),  # the walk-through's function cannot open HMDB51's
        'gestures': get_videos(shared / 'gestures')[::24],
        **sets,
    }

def cpu():
    own, children = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

def ffmpeg(v, dest):
    folder = dest/v.parent.name/v.stem
    folder.mkdir(parents=True)
    subprocess.run(
        [
            'ffmpeg',
            '-nostdin',
            '-loglevel',
            'quiet',
            '-threads',
            '1',
            '-i',
            v,
            '-threads',
            '1',
            '-q:v',
            '4',
            folder / '%d.jpg',
        ],
        check=True,
    )

ways = {
    "walk-through's avi2frames": lambda v, d: seed.avi2frames(v, d),
    'ours': lambda v, d: avi2frames(v, d),
    'ours, size=128': lambda v, d: avi2frames(v, d, size=128),
}
if shutil.which('ffmpeg'): ways["ffmpeg -q:v 4"] = ffmpeg

def fresh(way):
    dest = work/'out'/str(abs(hash(way)))
    shutil.rmtree(dest, ignore_errors=True)
    return dest

def seconds(way, videos):
    dest = fresh(way)
    start = cpu()
    for v in videos: ways[way](v, dest)
    return cpu() - start

def psnr(a, b): return 10*np.log10(255**2/max(np.mean((a.astype(float) - b)**2), 1e-3))

def quality(way, videos):
    "Bytes a frame, and PSNR against the frames in RGB: FFmpeg's default, and exact"
    size, default, exact = [], [], []
    for v in videos:
        folder = work/'out'/str(abs(hash(way)))/v.parent.name/v.stem
        with OpenVideo(v) as video:
            for f, frame in zip(sorted(folder.glob('*.jpg'), key=lambda f: int(f.stem)), video.frames()):
                size.append(f.stat().st_size)
                img = np.asarray(Image.open(f))
                if img.shape[0] != frame.height: continue
                default.append(psnr(img, frame.to_ndarray(format='rgb24')))
                exact.append(
                    psnr(
                        img,
                        VideoReformatter().reformat(frame, format='rgb24', interpolation=_exact).to_ndarray(),
                    )
                )
    return f'{mean(size):.0f}', *(f'{mean(p):.2f}' if p else '' for p in (default, exact))

rows, runs = [], 5
for name, videos in sets.items():
    frames = sum(map(n_frames, videos))
    times = {w: [] for w in ways}
    for _ in range(runs):
        for w in ways: times[w].append(seconds(w, videos))
    base = median(times["walk-through's avi2frames"])
    for w in ways:
        t = median(times[w])
        rows.append((
            f'{name}: {len(videos)} videos, {frames} frames',
            w,
            f'{frames/t:.0f}',
            f'{base/t:.2f}x',
            *quality(w, videos),
        ))
        print(*rows[-1], sep='\t', flush=True)
    if "ffmpeg -q:v 4" in ways:
        print(
            f"{name}: ours against ffmpeg's command"
            f" {median(times['ffmpeg -q:v 4'])/median(times['ours']):.2f}x"
        )
table = (
    line([
        'clips',
        'way',
        'frames/s',
        "against the walk-through's",
        'bytes a frame',
        "PSNR, FFmpeg's RGB, dB",
        'PSNR, exact RGB, dB',
    ])
    + line(['---'] * 7)
    + ''.join(map(line, rows))
)

# two processes against one
many = work/'many'
for name in list(sets)[:2]:
    for i in range(30):
        for v in sets[name]:
            (many/f'{name[:3]}{i}').mkdir(parents=True, exist_ok=True)
            shutil.copy(v, many/f'{name[:3]}{i}')
def wall(workers):
    dest = fresh(f'workers {workers}')
    start = time.time()
    extract_dataset(many, dest, workers=workers)
    return time.time() - start
pairs = [(wall(1), wall(2)) for _ in range(3)]
one, two = (median(p) for p in zip(*pairs))
peak = subprocess.run(
    [
        sys.executable,
        '-c',
        (
            "import sys; from fastai_seq.video.extract import *; avi2frames(sys.argv[1], sys.argv[2]);"
            " print(next(l for l in open('/proc/self/status') if 'VmHWM' in l).split()[1])"
        ),
        max(get_videos(many), key=n_frames),
        work / 'peak',
    ],
    capture_output=True,
    text=True,
    check=True,
).stdout
table += (
    f"\nextract_dataset of {len(get_videos(many))} videos: one process {one:.1f} s, two {two:.1f} s,"
    f" {one/two:.2f}x. Peak memory of a process that extracts: {int(peak)/1024:.0f} MB.\n"
)
print(table.splitlines()[-1])

# reading
def ours(v):
    _counted.clear()
    return read_frames(v, UniformFrames(16), size=112)
readers = {'fastai_seq.read_frames': ours}
sizes = {
    v: next(extract_frames(v)).size[::-1] for videos in sets.values() for v in videos
}  # the others have to be told; not in their time
try:
    import decord
    def by_decord(v):
        h, w = sizes[v]
        r = decord.VideoReader(str(v), num_threads=1, width=round(w*112/min(h, w)), height=round(h*112/min(h, w)))
        return r.get_batch(UniformFrames(16)(len(r))).asnumpy()
    readers['decord'] = by_decord
except ImportError: print('decord is not installed')
try:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize
    def by_torchcodec(v, seek_mode='exact'):
        h, w = sizes[v]
        r = VideoDecoder(
            v,
            dimension_order='NHWC',
            seek_mode=seek_mode,
            transforms=[Resize((round(h * 112 / min(h, w)), round(w * 112 / min(h, w))))],
        )
        return r.get_frames_at(UniformFrames(16)(len(r))).data
    readers |= {
        'torchcodec': by_torchcodec,
        'torchcodec, approximate seeks': partial(by_torchcodec, seek_mode='approximate'),
    }
except ImportError:
    print('torchcodec is not installed, or does not find FFmpeg')
def spent(read, videos):
    start = time.process_time()
    for v in videos: read(v)
    return (time.process_time() - start)*1000/len(videos)

table += '\n' + line(['16 uniform frames, 112 pixels', 'reader', 'ms a clip', 'ours is faster by']) + line(['---']*4)
for name, videos in sets.items():
    for r in readers.values(): spent(r, videos)
    times = [{k: spent(r, videos) for k, r in readers.items()} for _ in range(7)]
    for k in readers:
        table += line([
            name,
            k,
            f'{median(t[k] for t in times):.1f}',
            f'{median(t[k]/t["fastai_seq.read_frames"] for t in times):.2f}x',
        ])
text = (
    table
    + f"\nMedians of {runs} interleaved runs (reading: 7);"
    f" {source('av', 'simplejpeg', 'pillow', *(k for k in readers if k in ('decord', 'torchcodec')))}"
)
(here/'extraction.md').write_text(text)
print(text)
