"""Clips to finished uint8 batches: ours in each form against the walk-through's pipeline, torchcodec and decord.

    python benchmarks/loading.py

On one core: CPU milliseconds a clip, of one thread, from the path to a uint8 tensor `(T,C,size,size)`, frames resized with
their centre cropped; runs interleaved, medians; ratios are to (a) in the same run.
(a) the walk-through's ImageTupleTfm, Resize and ToTensor on folders of full-size JPEGs: its first T frames
(b) TensorVideoTfm on the same folders  (c) TensorVideoTfm straight from the video  (d) TensorVideoTfm from cache_clips, cached at that size
(e) torchcodec's VideoDecoder.get_frames_at  (f) decord's VideoReader.get_batch
In the walk-through's form: ImageTupleTfm, Resize, ToTensor, the first T frames. (b) to (f) take T frames spread evenly over the whole clip, by UniformFrames. Frames are counted once beforehand, as check_clips does before
training; torchcodec and decord count by themselves, and are told the size to decode to."""

import os, shutil, sys, tempfile, time
from pathlib import Path
from statistics import median

os.environ |= {'OMP_NUM_THREADS': '1', 'DECORD_LOG_LEVEL': '-8'}
sys.path.insert(0, str(Path(__file__).parent))
import torch
torch.set_num_threads(1)
import seed
from fastai.vision.all import Pipeline, RandomResizedCrop, Resize, ToTensor, aug_transforms
from common import line, source
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.block import ImageTupleTfm, TensorVideoTfm
from fastai_seq.data.datasets import motion_clips
from fastai_seq.video.cache import cache_clips
from fastai_seq.video.sampling import UniformFrames
from fastai_seq.video.decode import extract_frames
from fastai_seq.video.files import get_videos
from fastai_seq.video.read import n_frames

here = Path(__file__).parent
tmp = tempfile.TemporaryDirectory(
    dir='/dev/shm' if Path('/dev/shm').is_dir() else None
)  # in memory: the disk's moods are not measured
work, shared = Path(tmp.name), here/'../../shared'
src = work/'videos'
if shared.is_dir():
    for f in [*get_videos(shared/'clips').filter(lambda f: f.name[:2] == 'v_'), *get_videos(shared/'gestures')[::40]]:
        (src/f.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(f, src/f.parent.name)
else: motion_clips(src, n_groups=1, clips_per_group=1, n_frames=180, size=(240, 320))
videos = get_videos(src)
for v in videos:
    seed.avi2frames(v, work/'jpegs')
    n_frames(v)
shape = {v: next(extract_frames(v)).size[::-1] for v in videos}
at = lambda root, v: work/root/v.parent.name/v.stem

def ways(n, size):
    "Functions from a video's path to a uint8 tensor `(n,3,size,size)`"
    walk = Pipeline([seed.ImageTupleTfm(n), Resize(size), ToTensor()], split_idx=1)
    ours, frame_by_frame = TensorVideoTfm(n, size), Pipeline([ImageTupleTfm(n), Resize(size), ToTensor()], split_idx=1)
    cache_clips(src, work/f'cache{size}', size=(size, size), workers=0)
    res = {
        "(a) walk-through's, JPEG folders": lambda v: walk(at('jpegs', v)),
        "ours in the walk-through's form, the same folders": lambda v: frame_by_frame(at('jpegs', v)),
        '(b) ours, the same folders': lambda v: ours(at('jpegs', v)),
        '(c) ours, straight from video': ours,
        '(d) ours, cached': lambda v: ours(at(f'cache{size}', v)),
    }
    pick, crop = UniformFrames(n), lambda x: x[..., (x.shape[-2]-size)//2:, (x.shape[-1]-size)//2:][..., :size, :size]
    scaled = {v: tuple(max(size, round(d*size/min(hw))) for d in hw) for v, hw in shape.items()}
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize as To
        def codec(v):
            d = VideoDecoder(v, transforms=[To(scaled[v])])
            return crop(d.get_frames_at(pick(len(d))).data).contiguous()
        res['(e) torchcodec'] = codec
    except ImportError:
        print('torchcodec is not installed, or does not find FFmpeg')
    try:
        from decord import VideoReader
        def cord(v):
            h, w = scaled[v]
            r = VideoReader(str(v), num_threads=1, height=h, width=w)
            return crop(torch.from_numpy(r.get_batch(pick(len(r))).asnumpy()).permute(0, 3, 1, 2)).contiguous()
        res['(f) decord'] = cord
    except ImportError:
        print('decord is not installed')
    return res

def spent(f):
    start = time.process_time()
    for v in videos: f(v)
    return (time.process_time() - start)*1000/len(videos)

table, settings, results = '', ((5, 64), (16, 112), (8, 224)), {}
for n, size in settings:
    made = ways(n, size)
    for k, f in made.items():
        x = f(videos[0])
        assert len(x) == n and x[0].shape[-2:] == (size, size), k
        spent(f)
    runs = [{k: spent(f) for k, f in made.items()} for _ in range(9)]
    a = next(iter(made))
    for k in made:
        results.setdefault(k, []).extend(
            [f'{median(r[k] for r in runs):.2f}', f'{median(r[a]/r[k] for r in runs):.2f}x']
        )
    print(n, size, {k: v[-2:] for k, v in results.items()}, flush=True)
head = ['one clip, ms'] + [o for n, s in settings for o in (f'{n} x {s} px', 'ratio')]
table = line(head) + line(['---']*len(head)) + ''.join(line([k, *v]) for k, v in results.items())

# the full loader: two workers, with augmentation where it can be had
def loader_seconds(root, workers):
    dls = ImageSeqDataLoaders.from_folder(
        root,
        seq_len=16,
        size=128,
        item_tfms=RandomResizedCrop(112),
        batch_tfms=aug_transforms(do_flip=False),
        bs=4,
        num_workers=workers,
        seed=0,
        device='cpu',
    )
    for _ in dls.train: break
    start = time.time()
    n = sum(len(y) for _ in range(2) for _, y in dls.train)
    return n/(time.time() - start)
many = work/'many'
for i in range(23):
    for v in videos:
        (many/f'class{i % 2}').mkdir(parents=True, exist_ok=True)
        shutil.copy(v, many/f'class{i % 2}/{v.stem[-9:]}_{i}.avi')
cache_clips(many, work/'many_cache', size=(128, 128), workers=2)
rates = {
    (name, w): loader_seconds(root, w)
    for name, root in (('straight from video', many), ('cached', work / 'many_cache'))
    for w in (0, 2)
}
table += (
    '\n'
    + line([
        (
            'full loader, 16 x 112 px, RandomResizedCrop and aug_transforms on the CPU, batches of 4: clips/s'
            ' of wall clock'
        ),
        'no workers',
        '2 workers',
    ])
    + line(['---'] * 3)
)
table += ''.join(line([name, *(f'{rates[name, w]:.0f}' for w in (0, 2))]) for name in ('straight from video', 'cached'))

# memory and handles over a long training: 200 clips, 50 times, straight from video
def resident(): return int(next(l for l in open('/proc/self/status') if 'VmRSS' in l).split()[1])/1024
dls = ImageSeqDataLoaders.from_lists(
    many,
    (found := get_videos(many)[:204]),
    [v.parent.name for v in found],
    seq_len=16,
    size=112,
    bs=4,
    num_workers=0,
    seed=0,
    device='cpu',
    splitter=lambda o: (range(4, len(o)), range(4)),
)
seen = {}
for epoch in range(1, 51):
    for _ in dls.train: pass
    if epoch in (5, 25, 50): seen[epoch] = f'{resident():.0f} MB, {len(os.listdir("/proc/self/fd"))} handles'
table += (
    '\n'
    + line(['200 clips an epoch, 16 x 112 px, no workers: after epoch', *seen])
    + line(['---'] * 4)
    + line(['resident memory, open files', *seen.values()])
)
frames = [n_frames(v) for v in videos]
text = (
    table
    + f"\n{len(videos)} videos, {'real (UCF101 and gestures)' if shared.is_dir() else 'made'}, 320x240,"
    f" {min(frames)} to {max(frames)} frames, {sum(frames)//len(frames)} on average; medians of 9"
    " interleaved runs;"
    f" {source('torch', 'av', 'simplejpeg', *(k[4:] for k in results if k[:3] in ('(e)', '(f)')))}"
)
(here/'loading.md').write_text(text)
print(text)
