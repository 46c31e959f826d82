"Loaders: the same draws however many workers, every way in, and clips that break on the way."
import json, os, random, shutil, subprocess, sys, warnings
from functools import partial
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from fastai.callback.mixup import MixUp
from fastai.data.all import Normalize, RandomSplitter
from fastai.layers import SimpleCNN
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastai.vision.augment import aug_transforms
from fastai.vision.core import imagenet_stats

from fastai_seq import data as data_module
from fastai_seq.augment import ReverseTime
from fastai_seq.core import TensorVideo, clip_lengths
from fastai_seq.data import ImageSeqDataLoaders, ImageTupleTfm, TensorVideoTfm, get_instances, group_of
from fastai_seq.models import SimpleModel
from fastai_seq.sampling import EveryFrame, RandomClip, SegmentFrames, UniformFrames
from fastai_seq.video import VideoError, VideoRange, cache_clips, extract_dataset, n_frames, read_frames, write_video

def epoch(dl): return [(x.cpu().clone(), y.cpu().clone()) for x, y in dl]
def same(a, b): return len(a) == len(b) and all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b))
load = partial(ImageSeqDataLoaders.from_folder, seq_len=3, size=32, bs=4, seed=0)

@pytest.mark.parametrize('sampler', [SegmentFrames, RandomClip])
def test_draws_do_not_depend_on_the_workers(clips, sampler):
    made = {}
    for n in (0, 2, 3):
        set_seed(7)
        dls = load(clips, sampler=sampler, num_workers=n)
        made[n] = epoch(dls.train), epoch(dls.train), epoch(dls.valid), epoch(dls.valid)
    for n in (2, 3): assert all(same(a, b) for a, b in zip(made[0], made[n]))
    first, second, valid, again = made[0]
    assert not same(first, second) and same(valid, again)

def test_validation_is_the_middle_and_training_is_not(clips):
    dls = load(clips, sampler=RandomClip, num_workers=0)
    f = dls.valid.items[0]
    assert torch.equal(dls.valid_ds[0][0], dls.test_dl([f]).dataset[0][0]) and np.array_equal(dls.valid_ds[0][0][1].permute(1, 2, 0), read_frames(f, RandomClip(3), (32, 32))[1])
    assert len({tuple(dls.train_ds[0][0].flatten().tolist()) for _ in range(20)}) > 4

def test_global_random_state_is_left_alone(clips):
    dls = load(clips, sampler=SegmentFrames, num_workers=0)
    random.seed(1); np.random.seed(1); torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1); np.random.seed(1); torch.manual_seed(1)
    dls.train.do_item(0)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected

def test_ways_in(clips, tmp_path):
    files = get_instances(clips)
    labels = [f.parent.name for f in files]
    df = pd.DataFrame({'name': [f.relative_to(clips).as_posix() for f in files], 'label': labels, 'valid': [group_of(f).endswith('g01') for f in files]})
    df.to_csv(tmp_path/'labels.csv', index=False)
    reference = load(clips, num_workers=0)
    ways = [ImageSeqDataLoaders.from_lists(clips, files, labels, seq_len=3, size=32, bs=4, seed=0, num_workers=0),
            ImageSeqDataLoaders.from_path_func(clips, files, lambda f: f.parent.name, seq_len=3, size=32, bs=4, seed=0, num_workers=0),
            ImageSeqDataLoaders.from_df(df, clips, seq_len=3, size=32, bs=4, seed=0, num_workers=0)]
    for dls in ways:
        assert dls.vocab == reference.vocab and dls.valid.items == reference.valid.items and same(epoch(dls.valid), epoch(reference.valid))
    shutil.copy(tmp_path/'labels.csv', clips/'labels.csv')
    try: dls = ImageSeqDataLoaders.from_csv(clips, valid_col='valid', seq_len=3, size=32, bs=4, num_workers=0)
    finally: (clips/'labels.csv').unlink()
    assert {group_of(f)[-3:] for f in dls.valid.items} == {'g01'}

def test_other_targets(clips):
    files = get_instances(clips)
    both = [[f.parent.name, 'early' if 'g01' in f.name else 'late'] for f in files]
    dls = ImageSeqDataLoaders.from_lists(clips, files, both, seq_len=2, size=16, bs=4, num_workers=0)
    assert set(dls.vocab) == {'MoveLeft', 'MoveRight', 'early', 'late'} and dls.one_batch()[1].shape == (4, 4)
    dls = ImageSeqDataLoaders.from_lists(clips, files, [float(i) for i in range(len(files))], seq_len=2, size=16, bs=4, num_workers=0)
    assert dls.one_batch()[1].dtype == torch.float32 and dls.c == 1
    df = pd.DataFrame({'f': files, 'a': range(len(files)), 'b': .5, 't': 'x y'})
    assert ImageSeqDataLoaders.from_df(df, label_col=['a', 'b'], seq_len=2, size=16, bs=4, num_workers=0).one_batch()[1].shape == (4, 2)
    assert set(ImageSeqDataLoaders.from_df(df, label_col='t', label_delim=' ', seq_len=2, size=16, bs=4, num_workers=0).vocab) == {'x', 'y'}
    with pytest.raises(ValueError, match='24 clips and 3 labels'): ImageSeqDataLoaders.from_lists(clips, files, [1, 2, 3])
    with pytest.raises(ValueError, match='there twice'): ImageSeqDataLoaders.from_lists(clips, [files[0]]*2, ['a', 'b'])

def test_parts_of_videos(tmp_path):
    "A table of starts and ends: the frames are those of the time"
    for i in range(4): write_video(tmp_path/f'{i}.avi', (np.full((32, 32, 3), 8*t + i, np.uint8) for t in range(30)), fps=10)
    df = pd.DataFrame([dict(name=f'{i}.avi', label='early' if s < 1 else 'late', start=s, end=s+1) for i in range(4) for s in (0, 1.5)])
    dls = ImageSeqDataLoaders.from_df(df, tmp_path, start_col='start', end_col='end', seq_len=2, size=16, bs=2, seed=0, num_workers=0, splitter=RandomSplitter(.5, seed=0))
    for part, (x, y) in zip(dls.train.items, dls.train_ds):
        values = [round(float(f.float().mean())/8) for f in x]
        assert all(abs(v - w) <= 1 for v, w in zip(values, [part.start*10, part.start*10 + 9])) and dls.vocab[y] == ('early' if part.start < 1 else 'late')
    with pytest.raises(VideoError, match='no frames from 5 to 6 s'): read_frames(VideoRange(tmp_path/'0.avi', 5, 6), [0])

def test_train_and_valid_folders(clips, tmp_path):
    for f in get_instances(clips):
        to = tmp_path/('valid' if 'g02' in f.name else 'train')/f.parent.name
        to.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, to)
    dls = load(tmp_path, num_workers=0)
    assert {f.parent.parent.name for f in dls.valid.items} == {'valid'} and len(dls.valid.items) == 6 and dls.c == 2

def test_every_form_mixes(clips, tmp_path):
    "Videos, folders of frames and cached clips in one data set"
    extract_dataset(clips, tmp_path/'a', workers=0); cache_clips(clips, tmp_path/'b', size=32, workers=0)
    files = get_instances(clips)[:8] + get_instances(tmp_path/'a')[8:16] + get_instances(tmp_path/'b')[16:]
    dls = ImageSeqDataLoaders.from_path_func(tmp_path, files, lambda f: f.parent.name, seq_len=3, size=32, bs=4, num_workers=0)
    assert {x.shape for x, y in dls.train} == {(4, 3, 3, 32, 32)}

def test_a_clip_that_breaks_on_the_way(clips, tmp_path):
    shutil.copytree(clips, tmp_path/'c')
    for on_error, workers in (('raise', 0), ('replace', 0), ('replace', 2)):
        dls = load(tmp_path/'c', num_workers=workers, on_error=on_error)
        broken = dls.train.items[2]
        good = broken.read_bytes()
        broken.write_bytes(b'gone')
        try:
            if on_error == 'raise':
                with pytest.raises(VideoError, match=broken.name): epoch(dls.train)
            else:
                with pytest.warns(UserWarning, match='1 times a clip could not be read') as said: batches = epoch(dls.train)
                assert broken.name in str(said[0].message) and len(batches) == len(dls.train)
                labels = torch.cat([y for _, y in batches])
                assert len(labels) % 4 == 0 and sum(x.shape[0] for x, _ in batches) == len(labels)
        finally: broken.write_bytes(good)
    with pytest.raises(ValueError, match="on_error='skip'"): load(tmp_path/'c', on_error='skip')

def test_nothing_leaks_over_epochs(clips):
    handles = lambda: len(os.listdir('/proc/self/fd'))
    if not Path('/proc/self/fd').exists(): pytest.skip('no /proc')
    dls = load(clips, num_workers=0)
    epoch(dls.train); before = handles()
    memory = lambda: int(next(l for l in open('/proc/self/status') if 'VmRSS' in l).split()[1])/1024
    for _ in range(20): epoch(dls.train)
    start = memory()
    for _ in range(60): epoch(dls.train)
    assert handles() <= before and memory() - start < 20

def test_clips_that_are_all_too_short_are_said(clips):
    with pytest.warns(UserWarning, match='takes 16 frames, and the longest of 24 clips has 12'): ImageSeqDataLoaders.from_folder(clips, seq_len=16, size=32, num_workers=0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ImageSeqDataLoaders.from_folder(clips, seq_len=12, size=32, num_workers=0)

def test_a_thousand_clips_opened(clips, tmp_path):
    "Videos, folders and cached clips: no handle stays open"
    if not Path('/proc/self/fd').exists(): pytest.skip('no /proc')
    extract_dataset(clips, tmp_path/'a', workers=0); cache_clips(clips, tmp_path/'b', size=32, workers=0)
    files = [f for root in (clips, tmp_path/'a', tmp_path/'b') for f in get_instances(root)]
    read_frames(files[0], [0]); before = len(os.listdir('/proc/self/fd'))
    for i in range(1000): read_frames(files[i % len(files)], [i % 12], size=32)
    assert len(os.listdir('/proc/self/fd')) == before

def test_an_exported_learner_augments_and_resizes_in_a_fresh_process(clips, tmp_path):
    "Only fastai is imported before it is opened; item transforms must still know what a clip is"
    from fastai.vision.augment import Resize
    from fastai_seq.learner import seq_learner
    dls = load(clips, size=48, item_tfms=Resize(32), batch_tfms=aug_transforms(do_flip=False), num_workers=0)
    learn = seq_learner(dls, partial(SimpleCNN, [3, 8]), head='mean', pretrained=False, path=tmp_path)
    learn.export('model.pkl')
    f = dls.valid.items[0]
    with learn.no_bar(): probs = learn.predict(f)[2]
    code = f"from pathlib import Path; from fastai.learner import load_learner; l = load_learner({str(tmp_path/'model.pkl')!r}); l.no_bar().__enter__(); print(l.predict(Path({str(f)!r}))[2].tolist())"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True).stdout
    assert np.allclose(json.loads(out.strip().splitlines()[-1]), probs.tolist(), atol=1e-5)

@pytest.fixture
def uneven(tmp_path):
    "Clips of 3 to 14 frames"
    for i in range(12): write_video(tmp_path/'ab'[i % 2]/f'{i}.avi', (np.full((32, 32, 3), 10*t + 20, np.uint8) for t in range(3 + i)), fps=10)
    return tmp_path

@pytest.mark.parametrize('workers', [0, 2])
def test_clips_of_any_length_are_filled_up(uneven, workers):
    tfms = [*aug_transforms(do_flip=False), Normalize.from_stats(*imagenet_stats)]
    plain = ImageSeqDataLoaders.from_folder(uneven, sampler=EveryFrame, seq_len=10, size=16, bs=4, seed=0, num_workers=workers)
    for dls in (plain, ImageSeqDataLoaders.from_folder(uneven, sampler=EveryFrame, seq_len=10, size=16, bs=4, seed=0, num_workers=workers, batch_tfms=tfms)):
        for x, y in dls.train:
            own = [min(10, 3 + int(path.stem)) for path, _ in x.source]
            assert x.shape[1] == max(own) and clip_lengths(x) == (None if len(set(own)) == 1 else tuple(own))
            assert [len(idxs) for _, idxs in x.source] == own and [dls.vocab[int(o)] for o in y] == [path.parent.name for path, _ in x.source]
    for x, y in plain.valid:
        for clip, n, (path, idxs) in zip(x, clip_lengths(x) or [x.shape[1]]*len(x), x.source):
            assert not clip[n:].any() and torch.allclose(clip[:n]*255, TensorVideo.create(read_frames(path, idxs, (16, 16))).float(), atol=1e-3)

def test_time_runs_backwards_in_what_is_there(uneven):
    load = partial(ImageSeqDataLoaders.from_folder, uneven, sampler=EveryFrame, seq_len=10, size=16, bs=4, seed=0, num_workers=0, shuffle=False)
    reverse = ReverseTime(p=1)
    for dls in (load(item_tfms=reverse), load(batch_tfms=reverse)):
        for (x, _), (still, _) in zip(dls.train, load().train):
            n = clip_lengths(x) or [x.shape[1]]*len(x)
            for a, b, k, (_, ia), (_, ib) in zip(x, still, n, x.source, still.source):
                assert torch.equal(a[:k], b[:k].flip(0)) and not a[k:].any() and ia == ib[::-1]

def test_what_cannot_hold_clips_of_several_lengths_says_so(uneven):
    with pytest.raises(ValueError, match='EveryFrame.*use TensorVideoTfm'): ImageTupleTfm(8, EveryFrame)
    dls = ImageSeqDataLoaders.from_folder(uneven, sampler=EveryFrame, seq_len=10, size=16, bs=4, seed=0, num_workers=0)
    learn = Learner(dls, SimpleModel(partial(SimpleCNN, [3, 8]), 2, pretrained=False), cbs=MixUp(), path=uneven)
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='MixUp cannot mix clips of several lengths'): learn.fit(1)

def test_batches_know_their_clips(clips, tmp_path):
    "Which file and which frames, from every form of clip, and what is shown below them"
    extract_dataset(clips, tmp_path/'a', workers=0); cache_clips(clips, tmp_path/'b', size=32, workers=0)
    part = VideoRange(get_instances(clips)[0], .2, .4)
    for f in (get_instances(clips)[0], get_instances(tmp_path/'a')[0], get_instances(tmp_path/'b')[0], part):
        path, idxs = TensorVideoTfm(3, 32, UniformFrames)(f).source
        assert path == f and idxs == UniformFrames(3)(n_frames(f))
        assert data_module._times(path, idxs)[0] == (f'{part.start:.2f} s' if f is part else '0.00 s')
    (tmp_path/'plain').mkdir(); [Image.new('RGB', (8, 8)).save(tmp_path/f'plain/{i}.jpg') for i in range(4)]
    assert data_module._times(tmp_path/'plain', [0, 3]) == ['frame 0', 'frame 3']
