"Loaders: the same draws however many workers, every way in, and clips that break on the way."
import json, os, random, shutil, subprocess, sys, warnings
from functools import partial
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from fastai.callback.mixup import MixUp
from fastai.data.all import (
    Categorize,
    CategoryBlock,
    DataBlock,
    Datasets,
    Normalize,
    RandomSplitter,
    RegressionBlock,
    ToTensor,
    parent_label,
)
from fastai.layers import SimpleCNN
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastai.vision.augment import RandTransform, aug_transforms
from fastai.vision.core import imagenet_stats

from fastai_seq.data import show as data_module
import fastai_seq.data.bench                     # `DataLoaders.bench`
from fastai_seq.data.augment import ReverseTime
import fastai.callback.progress, fastai_seq.data.bench      # `no_bar` of learners, and `bench` of loaders
from fastai_seq.core import TensorVideo, clip_lengths
from fastai_seq.data.load import ClipDL
from fastai_seq.data.split import GroupSplitter
from fastai_seq.data.block import ImageSeqBlock, ImageTupleTfm, TensorVideoTfm
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.find import examine_clips, get_instances, group_of
from fastai_seq.video.cache import cache_clips
from fastai_seq.video.extract import extract_dataset
from fastai_seq.walkthrough import SimpleModel, get_action_dataloaders
from fastai_seq.video.sampling import EveryFrame, FirstFrames, RandomClip, SegmentFrames, UniformFrames
from fastai_seq.video.clip import VideoRange
from fastai_seq.video.files import VideoError, write_video
from fastai_seq.video.read import n_frames, read_frames

def epoch(dl): return [(x.cpu().clone(), y.cpu().clone()) for x, y in dl]
def same(a, b): return len(a) == len(b) and all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b))
load = partial(ImageSeqDataLoaders.from_folder, seq_len=3, size=32, bs=4, seed=0)

@pytest.mark.parametrize('sampler', [SegmentFrames, RandomClip])
@pytest.mark.slow
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
    assert torch.equal(dls.valid_ds[0][0], dls.test_dl([f]).dataset[0][0]) and np.array_equal(
        dls.valid_ds[0][0][1].permute(1, 2, 0), read_frames(f, RandomClip(3), (32, 32))[1]
    )
    assert len({tuple(dls.train_ds[0][0].flatten().tolist()) for _ in range(20)}) > 4

def test_global_random_state_is_left_alone(clips):
    dls = load(clips, sampler=SegmentFrames, num_workers=0)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    dls.train.do_item(0)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected

def test_ways_in(clips, tmp_path):
    files = get_instances(clips)
    labels = [f.parent.name for f in files]
    df = pd.DataFrame({
        'name': [f.relative_to(clips).as_posix() for f in files],
        'label': labels,
        'valid': [group_of(f).endswith('g01') for f in files],
    })
    df.to_csv(tmp_path/'labels.csv', index=False)
    reference = load(clips, num_workers=0)
    ways = [
        ImageSeqDataLoaders.from_lists(clips, files, labels, seq_len=3, size=32, bs=4, seed=0, num_workers=0),
        ImageSeqDataLoaders.from_path_func(
            clips, files, lambda f: f.parent.name, seq_len=3, size=32, bs=4, seed=0, num_workers=0
        ),
        ImageSeqDataLoaders.from_df(df, clips, seq_len=3, size=32, bs=4, seed=0, num_workers=0),
    ]
    for dls in ways:
        assert (
            dls.vocab == reference.vocab
            and dls.valid.items == reference.valid.items
            and same(epoch(dls.valid), epoch(reference.valid))
        )
    shutil.copy(tmp_path/'labels.csv', clips/'labels.csv')
    try:dls = ImageSeqDataLoaders.from_csv(clips, valid_col='valid', seq_len=3, size=32, bs=4, num_workers=0)
    finally: (clips/'labels.csv').unlink()
    assert {group_of(f)[-3:] for f in dls.valid.items} == {'g01'}

def test_other_targets(clips):
    files = get_instances(clips)
    both = [[f.parent.name, 'early' if 'g01' in f.name else 'late'] for f in files]
    dls = ImageSeqDataLoaders.from_lists(clips, files, both, seq_len=2, size=16, bs=4, num_workers=0)
    assert set(dls.vocab) == {'MoveLeft', 'MoveRight', 'early', 'late'} and dls.one_batch()[1].shape == (4, 4)
    dls = ImageSeqDataLoaders.from_lists(
        clips, files, [float(i) for i in range(len(files))], seq_len=2, size=16, bs=4, num_workers=0
    )
    assert dls.one_batch()[1].dtype == torch.float32 and dls.c == 1
    df = pd.DataFrame({'f': files, 'a': range(len(files)), 'b': .5, 't': 'x y'})
    assert ImageSeqDataLoaders.from_df(
        df, label_col=['a', 'b'], seq_len=2, size=16, bs=4, num_workers=0
    ).one_batch()[1].shape == (4, 2)
    assert set(
        ImageSeqDataLoaders.from_df(
            df, label_col='t', label_delim=' ', seq_len=2, size=16, bs=4, num_workers=0
        ).vocab
    ) == {'x', 'y'}
    with pytest.raises(ValueError, match='24 clips and 3 labels'):
        ImageSeqDataLoaders.from_lists(clips, files, [1, 2, 3])
    with pytest.raises(ValueError, match='there twice'): ImageSeqDataLoaders.from_lists(clips, [files[0]]*2, ['a', 'b'])

def test_parts_of_videos(tmp_path):
    "A table of starts and ends: the frames are those of the time"
    for i in range(4):
        write_video(
            tmp_path / f'{i}.avi', (np.full((32, 32, 3), 8 * t + i, np.uint8) for t in range(30)), fps=10
        )
    df = pd.DataFrame([
        dict(name=f'{i}.avi', label='early' if s < 1 else 'late', start=s, end=s + 1)
        for i in range(4)
        for s in (0, 1.5)
    ])
    dls = ImageSeqDataLoaders.from_df(
        df,
        tmp_path,
        start_col='start',
        end_col='end',
        seq_len=2,
        size=16,
        bs=2,
        seed=0,
        num_workers=0,
        splitter=RandomSplitter(0.5, seed=0),
    )
    for part, (x, y) in zip(dls.train.items, dls.train_ds):
        values = [round(float(f.float().mean())/8) for f in x]
        assert all(
            abs(v - w) <= 1 for v, w in zip(values, [part.start * 10, part.start * 10 + 9])
        ) and dls.vocab[y] == ('early' if part.start < 1 else 'late')
    with pytest.raises(VideoError, match='no frames from 5 to 6 s'):
        read_frames(VideoRange(tmp_path / '0.avi', 5, 6), [0])

def test_train_and_valid_folders(clips, tmp_path):
    for f in get_instances(clips):
        to = tmp_path/('valid' if 'g02' in f.name else 'train')/f.parent.name
        to.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, to)
    for splitter in ({}, dict(splitter=None)):
        dls = load(tmp_path, num_workers=0, **splitter)
        assert {f.parent.parent.name for f in dls.valid.items} == {'valid'} and len(dls.valid.items) == 6 and dls.c == 2
    twice = shutil.copy(
        dls.valid.items[0],
        tmp_path / 'train' / dls.valid.items[0].parent.name / 'the same as a clip held out.avi',
    )
    verdict = examine_clips(tmp_path, workers=0).verdict
    assert len(verdict) == 25 and list(verdict.index[verdict != '']) == [twice]
    with pytest.raises(ValueError, match="splitter=.* beside the folders 'train' and 'valid'"):
        load(tmp_path, splitter=GroupSplitter())

@pytest.mark.parametrize('there,names', [('val', {}), ('Test', {}), ('valid', dict(valid='testing')), ('valid', dict(train='training'))])
def test_data_that_come_split_under_other_names_are_not_pooled(clips, tmp_path, there, names):
    shutil.copytree(clips, tmp_path/'train')
    shutil.copytree(clips, tmp_path/there)
    with pytest.raises(ValueError, match=f"no folders '.*it has {there}, train|no folders '.*it has train, {there}"):
        load(tmp_path, **names)

def test_every_form_mixes(clips, tmp_path):
    "Videos, folders of frames and cached clips in one data set"
    extract_dataset(clips, tmp_path/'a', workers=0)
    cache_clips(clips, tmp_path/'b', size=32, workers=0)
    files = get_instances(clips)[:8] + get_instances(tmp_path/'a')[8:16] + get_instances(tmp_path/'b')[16:]
    dls = ImageSeqDataLoaders.from_path_func(
        tmp_path, files, lambda f: f.parent.name, seq_len=3, size=32, bs=4, num_workers=0
    )
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
                with pytest.warns(UserWarning, match='1 times a clip could not be read') as said:
                    batches = epoch(dls.train)
                assert [broken.name in str(w.message) for w in said if w.category is UserWarning] == [
                    True
                ] and len(batches) == len(dls.train)
                labels = torch.cat([y for _, y in batches])
                assert len(labels) % 4 == 0 and sum(x.shape[0] for x, _ in batches) == len(labels)
        finally:
            broken.write_bytes(good)
    with pytest.raises(ValueError, match="on_error='skip'"): load(tmp_path/'c', on_error='skip')

def test_what_was_replaced_is_told_of_an_epoch_that_was_not_read_to_its_end(clips, tmp_path):
    shutil.copytree(clips, tmp_path/'c')
    dls = load(tmp_path/'c', num_workers=0, on_error='replace', bs=18)
    broken = dls.train.items[2]
    broken.write_bytes(b'gone')
    next(iter(dls.train))
    log = dls.train.log
    with pytest.warns(UserWarning, match=f'1 times a clip(?s:.*){broken.name}'): next(iter(dls.train))
    assert not log.exists()
    dls.train.log.unlink()

@pytest.mark.slow
def test_nothing_leaks_over_epochs(clips):
    handles = lambda: len(os.listdir('/proc/self/fd'))
    if not Path('/proc/self/fd').exists(): pytest.skip('no /proc')
    dls = load(clips, num_workers=0)
    epoch(dls.train)
    before = handles()
    memory = lambda: int(next(l for l in open('/proc/self/status') if 'VmRSS' in l).split()[1])/1024
    for _ in range(20): epoch(dls.train)
    start = memory()
    for _ in range(60): epoch(dls.train)
    assert handles() <= before and memory() - start < 20

def test_clips_that_are_all_too_short_are_said(clips):
    with pytest.warns(UserWarning, match='takes 16 frames, and the longest of 24 clips has 12'):
        ImageSeqDataLoaders.from_folder(clips, seq_len=16, size=32, num_workers=0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ImageSeqDataLoaders.from_folder(clips, seq_len=12, size=32, num_workers=0)

@pytest.mark.slow
def test_a_thousand_clips_opened(clips, tmp_path):
    "Videos, folders and cached clips: no handle stays open"
    if not Path('/proc/self/fd').exists(): pytest.skip('no /proc')
    extract_dataset(clips, tmp_path/'a', workers=0)
    cache_clips(clips, tmp_path/'b', size=32, workers=0)
    files = [f for root in (clips, tmp_path/'a', tmp_path/'b') for f in get_instances(root)]
    read_frames(files[0], [0])
    before = len(os.listdir('/proc/self/fd'))
    for i in range(1000): read_frames(files[i % len(files)], [i % 12], size=32)
    assert len(os.listdir('/proc/self/fd')) == before

@pytest.mark.slow
def test_an_exported_learner_augments_and_resizes_in_a_fresh_process(clips, tmp_path):
    "Only fastai is imported before it is opened; item transforms must still know what a clip is"
    from fastai.vision.augment import Resize
    from fastai_seq.train.learner import seq_learner
    dls = load(clips, size=48, item_tfms=Resize(32), batch_tfms=aug_transforms(do_flip=False), num_workers=0)
    learn = seq_learner(dls, partial(SimpleCNN, [3, 8]), head='mean', pretrained=False, path=tmp_path)
    learn.export('model.pkl')
    f = dls.valid.items[0]
    with learn.no_bar(): probs = learn.predict(f)[2]
    code = (
        "from pathlib import Path; from fastai.learner import load_learner; l ="
        f" load_learner({str(tmp_path/'model.pkl')!r}); l.no_bar().__enter__();"
        f" print(l.predict(Path({str(f)!r}))[2].tolist())"
    )
    out = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True
    ).stdout
    assert np.allclose(json.loads(out.strip().splitlines()[-1]), probs.tolist(), atol=1e-5)

@pytest.fixture
def uneven(tmp_path):
    "Clips of 3 to 14 frames"
    for i in range(12):
        write_video(
            tmp_path / 'ab'[i % 2] / f'{i}.avi',
            (np.full((32, 32, 3), 10 * t + 20, np.uint8) for t in range(3 + i)),
            fps=10,
        )
    return tmp_path

@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.slow
def test_clips_of_any_length_are_filled_up(uneven, workers):
    tfms = [*aug_transforms(do_flip=False), Normalize.from_stats(*imagenet_stats)]
    plain = ImageSeqDataLoaders.from_folder(
        uneven, sampler=EveryFrame, seq_len=10, size=16, bs=4, seed=0, num_workers=workers
    )
    for dls in (
        plain,
        ImageSeqDataLoaders.from_folder(
            uneven,
            sampler=EveryFrame,
            seq_len=10,
            size=16,
            bs=4,
            seed=0,
            num_workers=workers,
            batch_tfms=tfms,
        ),
    ):
        for x, y in dls.train:
            own = [min(10, 3 + int(path.stem)) for path, _ in x.source]
            assert x.shape[1] == max(own) and clip_lengths(x) == (None if len(set(own)) == 1 else tuple(own))
            assert [len(idxs) for _, idxs in x.source] == own and [dls.vocab[int(o)] for o in y] == [
                path.parent.name for path, _ in x.source
            ]
    for x, y in plain.valid:
        for clip, n, (path, idxs) in zip(x, clip_lengths(x) or [x.shape[1]]*len(x), x.source):
            assert not clip[n:].any() and torch.allclose(
                clip[:n] * 255, TensorVideo.create(read_frames(path, idxs, (16, 16))).float(), atol=1e-3
            )

def test_time_runs_backwards_in_what_is_there(uneven):
    load = partial(
        ImageSeqDataLoaders.from_folder,
        uneven,
        sampler=EveryFrame,
        seq_len=10,
        size=16,
        bs=4,
        seed=0,
        num_workers=0,
        shuffle=False,
    )
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
    with (
        learn.no_bar(),
        learn.no_logging(),
        pytest.raises(ValueError, match='MixUp cannot mix clips of several lengths'),
    ):
        learn.fit(1)

def test_batches_know_their_clips(clips, tmp_path):
    "Which file and which frames, from every form of clip, and what is shown below them"
    extract_dataset(clips, tmp_path/'a', workers=0)
    cache_clips(clips, tmp_path/'b', size=32, workers=0)
    part = VideoRange(get_instances(clips)[0], .2, .4)
    for f in (get_instances(clips)[0], get_instances(tmp_path/'a')[0], get_instances(tmp_path/'b')[0], part):
        path, idxs = TensorVideoTfm(3, 32, UniformFrames)(f).source
        assert path == f and idxs == UniformFrames(3)(n_frames(f))
        assert data_module.frame_times(path, idxs)[0] == (f'{part.start:.2f} s' if f is part else '0.00 s')
    (tmp_path/'plain').mkdir()
    [Image.new('RGB', (8, 8)).save(tmp_path/f'plain/{i}.jpg') for i in range(4)]
    assert data_module.frame_times(tmp_path/'plain', [0, 3]) == ['frame 0', 'frame 3']

def test_frames_a_second_through_the_loaders(tmp_path):
    "Videos of 10 and of 30 frames a second give frames at the same times"
    for fps in (10, 30):
        for g in (1, 2, 3):
            write_video(
                tmp_path / f'c{fps}' / f'v_c{fps}_g0{g}.avi',
                (np.full((16, 16, 3), 3 * t, np.uint8) for t in range(2 * fps)),
                fps=fps,
            )
    dls = ImageSeqDataLoaders.from_folder(
        tmp_path, sampler=partial(FirstFrames, fps=5), seq_len=8, size=16, bs=2, seed=0, num_workers=0
    )
    assert {data_module.frame_times(*s)[3] for x, _ in dls.valid for s in x.source} == {'0.60 s'}
    with pytest.warns(UserWarning, match='takes 39 frames, and the longest'):
        ImageSeqDataLoaders.from_folder(
            tmp_path, sampler=FirstFrames(20, fps=5), size=16, bs=2, num_workers=0
        )

def test_only_training_replaces_a_clip(clips, tmp_path):
    "A prediction for another clip would be wrong; a file that vanished is replaced like a broken one; every epoch warns"
    shutil.copytree(clips, tmp_path/'c')
    dls = load(tmp_path/'c', num_workers=0, on_error='replace')
    dls.train.items[2].unlink()
    for times in (1, 2):
        with pytest.warns(UserWarning, match=rf'1 times .* \({times} times since the start\)'): epoch(dls.train)
    dls.valid.items[0].write_bytes(b'gone')
    with pytest.raises(VideoError): epoch(dls.valid)
    with pytest.raises(VideoError): dls.test_dl([dls.valid.items[0], dls.valid.items[1]]).one_batch()

def test_parts_of_a_video_are_of_one_recording(clips, tmp_path):
    for i, f in enumerate(get_instances(clips)[:12]): shutil.copy(f, tmp_path/f'{i}.avi')
    parts = [VideoRange(tmp_path/f'{i}.avi', a, a + .3) for i in range(12) for a in (0, .1)]
    dls = ImageSeqDataLoaders.from_lists(
        tmp_path, parts, ['ab'[i % 2] for i in range(12) for _ in '12'], seq_len=2, size=16, bs=4, seed=0
    )
    assert not {p.path for p in dls.train.items} & {p.path for p in dls.valid.items}
    with pytest.warns(UserWarning, match='recording groups have clips in both'):
        ImageSeqDataLoaders.from_lists(
            tmp_path,
            parts,
            ['ab'[i % 2] for i in range(12) for _ in '12'],
            seq_len=2,
            size=16,
            bs=4,
            splitter=lambda o: (range(0, 24, 2), range(1, 24, 2)),
        )

def test_a_data_block_is_warned_of_a_leak_once(clips):
    block = lambda **kw: DataBlock(
        (ImageSeqBlock(3, 16), CategoryBlock), get_items=get_instances, get_y=parent_label, **kw
    )
    with pytest.warns(UserWarning, match='recording groups have clips in both') as said:
        block().dataloaders(clips, bs=4)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        dls = block(splitter=GroupSplitter(seed=0)).dataloaders(clips, bs=4, num_workers=0)
        dls.test_dl(get_instances(clips)).one_batch()

@pytest.mark.parametrize('splits,said', [((range(10), range(6, 12)), '4 clips are in both parts'), ((range(10), [10, 50]), r'clip 50; expected indices in range\(24\)')])
def test_splits_that_cannot_be(clips, splits, said):
    with pytest.raises(ValueError, match=said): load(clips, splitter=splits)

def test_bench_leaves_the_model_alone(clips):
    dls = load(clips, num_workers=0)
    learn = Learner(dls, SimpleModel(partial(SimpleCNN, [3, 8]), 2, pretrained=False), path=clips)
    before, drawn = {k: v.clone() for k, v in learn.model.state_dict().items()}, (
        random.getstate(),
        torch.get_rng_state(),
    )
    dls.bench(learn.model, n_batches=1)
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items()) and all(
        p.grad is None for p in learn.model.parameters()
    )
    assert drawn[0] == random.getstate() and torch.equal(drawn[1], torch.get_rng_state())

def test_labels_that_are_numbers(clips):
    files, make = get_instances(clips), partial(
        ImageSeqDataLoaders.from_lists, clips, seq_len=2, size=16, bs=4, num_workers=0, seed=0
    )
    n = len(files)
    with pytest.raises(ValueError, match='no clip of 7 is left'):
        make(files, [0] * 12 + [1] * 11 + [7], splitter=lambda o: (range(23), [23]))
    assert list(make(files, [0]*12 + [1]*12).vocab) == [0, 1]
    for labels in (np.arange(n, dtype=np.float32) / 3, [1, 2.5] * 12):
        assert make(files, labels).one_batch()[1].dtype == torch.float32
    with pytest.raises(ValueError, match='24 different whole numbers for 24 clips: pass y_block'): make(files, range(n))
    assert make(files, range(n), y_block=RegressionBlock()).c == 1
    with pytest.raises(ValueError, match='has no label'): make(files, [1.]*(n-1) + [float('nan')])
    with pytest.raises(ValueError, match='no clip of rare is left'):
        make(files, [['a', 'b']] * (n - 1) + [['a', 'rare']], splitter=lambda o: (range(n - 1), [n - 1]))
    assert make(files, [[.5, 1.], [2., 3.]]*12).one_batch()[1].shape == (4, 2)

def test_two_views_of_a_clip_show_the_same_frames(clips):
    views = [ImageSeqBlock(4, s, sampler=RandomClip) for s in (16, 32)]
    dls = DataBlock(
        (*views, CategoryBlock),
        n_inp=2,
        get_items=get_instances,
        get_x=[lambda o: o] * 2,
        get_y=parent_label,
        splitter=GroupSplitter(seed=0),
    ).dataloaders(clips, bs=4, num_workers=0)
    starts = set()
    for a, b, _ in dls.train:
        assert [s for _, s in a.source] == [s for _, s in b.source]
        starts |= {s[0] for _, s in a.source}
    assert len(starts) > 2

def test_tuples_draw_alike_whatever_the_workers(clips):
    def frames(workers):
        set_seed(3)
        ds = Datasets(
            get_instances(clips),
            tfms=[[ImageTupleTfm(3, SegmentFrames)], [parent_label, Categorize]],
            splits=GroupSplitter(seed=0)(get_instances(clips)),
        )
        return [
            torch.stack(tuple(x))
            for x, _ in ds.dataloaders(bs=4, after_item=[ToTensor], num_workers=workers, dl_type=ClipDL).train
        ]
    assert all(torch.equal(a, b) for a, b in zip(frames(0), frames(2)))

def test_any_form_of_path_is_a_clip_to_a_learner(clips):
    dls = load(clips, num_workers=0)
    f = dls.valid.items[0]
    a, b, c = (dls.test_dl([o]).one_batch()[0] for o in (f, str(f), VideoRange(f)))
    assert torch.equal(a, b) and torch.equal(a, c)

def test_a_cache_whose_head_is_damaged_is_made_again(clips, tmp_path):
    cache_clips(clips, tmp_path, size=16, workers=0)
    bad = get_instances(tmp_path)[3]/'frames.npy'
    good = bad.read_bytes()
    bad.write_bytes(b'x'*8 + good[8:])
    assert len(cache_clips(clips, tmp_path, size=16, workers=0).done) == 1 and bad.read_bytes() == good
    with pytest.raises(ValueError, match='max_frames=-1'): cache_clips(clips, tmp_path/'b', max_frames=-1)
    with pytest.raises(ValueError, match=r'size=\(8,\)'): cache_clips(clips, tmp_path/'b', size=(8,))

def test_uneven_groups_are_split_as_well_as_can_be():
    "Every class is trained on, and the share held out is near to the one asked for"
    for seed in range(100):
        r = random.Random(seed)
        items = [
            Path(f'{c}/v_p{p}_g{p:02}_{c}{k}')
            for p in range(r.randint(4, 9))
            for c in 'ABC'
            for k in range(r.randint(0, 8))
        ]
        train, valid = GroupSplitter(seed=seed)(items)
        assert {items[i].parent for i in train} == {i.parent for i in items}, seed
        assert .05 < len(valid)/len(items) < .45, (seed, len(valid)/len(items))

def test_parts_of_the_data_are_told_from_classes(clips, tmp_path):
    shutil.copytree(clips, tmp_path/'train')
    shutil.copytree(clips, tmp_path/'test')
    with pytest.raises(ValueError, match='if MoveLeft and MoveRight are parts|if test and train are parts'):
        get_instances(tmp_path)
    drop = get_instances(tmp_path/'train')[0].relative_to(tmp_path)
    dls = load(tmp_path, valid='test', exclude=[drop], num_workers=0)
    assert len(dls.train.items) == 23 and len(dls.valid.items) == 24

@pytest.mark.parametrize('wrong,said', [(dict(sampler='random'), "sampler='random'.*RandomClip"), (dict(splitter='random'), "splitter='random'.*GroupSplitter")])
def test_a_word_where_an_object_is_wanted_is_told_what(clips, wrong, said):
    with pytest.raises(ValueError, match=said):
        ImageSeqDataLoaders.from_folder(clips, seq_len=2, size=16, bs=2, **wrong)

def test_what_says_what_is_held_out_is_said_once(clips):
    files = get_instances(clips)
    df = pd.DataFrame(
        dict(
            name=[str(f.relative_to(clips)) for f in files],
            label=[f.parent.name for f in files],
            held=[i % 4 == 0 for i in range(len(files))],
        )
    )
    table = partial(ImageSeqDataLoaders.from_df, df, clips, valid_col='held', seq_len=3, size=16, bs=4, num_workers=0)
    assert list(table(splitter=None).valid.items) == [f for i, f in enumerate(files) if i % 4 == 0]
    with pytest.raises(ValueError, match="splitter=.* beside valid_col='held'"): table(splitter=RandomSplitter())

@pytest.mark.parametrize('name', ['size', 'splitter', 'bach_tfms'])
def test_the_walk_throughs_loaders_know_their_arguments(clips, name):
    with pytest.raises(TypeError, match=name): get_action_dataloaders(get_instances(clips), bs=4, **{name: None})

@pytest.mark.parametrize('name', ['collate_fn', 'worker_init_fn', 'prefetch_factor'])
def test_arguments_that_fastai_drops_are_refused(clips, name):
    with pytest.raises(TypeError, match=name): load(clips, **{name: None})

@pytest.mark.parametrize('tfm', [ImageTupleTfm, TensorVideoTfm])
def test_a_sampler_that_is_made_says_all(tfm):
    assert (
        tfm(sampler=FirstFrames(3, short='error')).sampler.short == 'error'
        and tfm(3, sampler=FirstFrames(3)).sampler.seq_len == 3
    )
    for kwargs, named in ((dict(seq_len=5), 'seq_len=5'), (dict(short='error'), "short='error'")):
        with pytest.raises(ValueError, match=f'{named} beside FirstFrames'): tfm(sampler=FirstFrames(3), **kwargs)

def test_bench_times_what_training_does(clips):
    class Training(RandTransform):
        def __init__(self):
            super().__init__()
            self.n = 0
        def encodes(self, x: TensorVideo):
            self.n += 1
            return x
    tfm = Training()
    load(clips, batch_tfms=tfm, num_workers=0).bench()
    assert tfm.n == 4
