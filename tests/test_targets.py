"Targets that are sequences: what does not fit is named before or when it is drawn, whole folders load as they lie, measures do not depend on batches."

import shutil
from functools import partial

import matplotlib, numpy as np, pytest, torch
from PIL import Image
from fastai.data.all import DataBlock, Normalize, RandomSplitter
from fastai.layers import SimpleCNN
from fastai.vision.augment import Hue, RandomErasing, Rotate

from fastai_seq.data.block import ImageSeqBlock
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.synthetic import frame_labels
from fastai_seq.video.cache import cache_clips
from fastai_seq.video.sampling import EveryFrame, FirstFrames, UniformFrames
from fastai_seq.models.forecaster import ConvGRUForecaster
from fastai_seq.models.simvp import SimVP
from fastai_seq.models.unet import TemporalUNet
from fastai_seq.train.metrics import MaskIoU, f1_at, mask_iou, segmental_f1
from fastai_seq.train.scheduled import ScheduledSampling
from fastai_seq.train.learner import seq_learner
from fastai_seq.data.targets import FrameCategoryBlock, FrameRegressionBlock
from fastai_seq.data.masks import FrameMaskBlock
from fastai_seq.data.future import FutureDataLoaders, FutureFrames, _clips_below
from fastai_seq.video.files import get_videos, write_video
from fastai_seq.video.read import n_frames
matplotlib.use('agg')

def make_videos(folder, lengths=(6,)*6, size=(24, 32), name='a'):
    "Videos of `lengths` frames, `a_g01_c01.avi` …, brighter with each frame"
    folder.mkdir(parents=True, exist_ok=True)
    for i, n in enumerate(lengths):
        write_video(
            folder / f'{name}_g{i+1:02}_c01.avi', [np.full((*size, 3), 10 * k, np.uint8) for k in range(n)]
        )
    return folder

@pytest.fixture(scope='module')
def videos(tmp_path_factory): return make_videos(tmp_path_factory.mktemp('videos')/'all')

one_call = partial(ImageSeqDataLoaders.from_path_func, '.', seq_len=4, size=16, bs=2, seed=0, num_workers=0)
future = partial(FutureDataLoaders.from_folder, n_in=3, n_out=2, size=16, bs=2, seed=0, num_workers=0)
cnn = partial(SimpleCNN, [3, 4])
def words(p): return ['ab'[k%2] for k in range(n_frames(p))]
def block(path, y_block, get_y, sampler=UniformFrames, method='crop', bs=2):
    return DataBlock(
        (ImageSeqBlock(4, 16, sampler=sampler, method=method), y_block),
        get_items=get_videos,
        get_y=get_y,
        splitter=RandomSplitter(seed=0),
    ).dataloaders(path, bs=bs, num_workers=0)

# files of labels

@pytest.mark.parametrize('text', ['Up\nDown\n', 'Up\nDown', 'Up \n Down\n\n\n', 'Up\r\nDown\r\n'])
def test_label_files_end_as_they_like(tmp_path, text):
    (tmp_path/'v.txt').write_text(text, newline='')
    assert frame_labels(tmp_path/'v.avi') == ['Up', 'Down']

def test_a_frame_without_label_is_not_passed_over(tmp_path):
    (tmp_path/'v.txt').write_text('Up\n\nDown\n')
    assert frame_labels(tmp_path/'v.avi') == ['Up', '', 'Down']

# one call for every kind of target

arrays = {
    'numbers': (FrameRegressionBlock, lambda p: np.linspace(0, 1, 6), (2, 4, 1)),
    'several numbers': (FrameRegressionBlock, lambda p: np.ones((6, 2)), (2, 4, 2)),
    'lists of numbers': (FrameRegressionBlock, lambda p: [[0., 1.]]*6, (2, 4, 2)),
    'masks': (FrameMaskBlock(['no', 'yes']), lambda p: np.zeros((6, 24, 32), np.uint8), (2, 4, 16, 16)),
    'clips': (partial(ImageSeqBlock, 4, 16), lambda p: p, (2, 4, 3, 16, 16)),
    'arrays of classes': (FrameCategoryBlock, lambda p: np.array(words(p)), (2, 4))}

@pytest.mark.parametrize('kind', arrays)
def test_every_kind_of_target_in_one_call(videos, kind, capsys):
    y_block, get_y, shape = arrays[kind]
    files = get_videos(videos)
    assert one_call(files, get_y, y_block=y_block).one_batch()[1].shape == shape
    if kind != 'clips':
        assert (
            ImageSeqDataLoaders.from_lists(
                '.',
                files,
                [get_y(f) for f in files],
                seq_len=4,
                size=16,
                bs=2,
                seed=0,
                num_workers=0,
                y_block=y_block,
            )
            .one_batch()[1]
            .shape
            == shape
        )

def test_masks_are_not_read_before_they_are_needed(videos, capsys):
    asked = []
    def get_y(p):
        asked.append(p)
        return np.zeros((6, 24, 32))
    one_call(get_videos(videos), get_y, y_block=FrameMaskBlock(['no', 'yes']))
    assert len(asked) <= 2       # what fastai tries while it sets up

def test_paths_of_masks_are_no_classes(videos, tmp_path, capsys):
    for p in get_videos(videos): np.save(tmp_path/f'{p.stem}.npy', np.ones((6, 24, 32), np.uint8))
    assert (
        one_call(
            get_videos(videos), lambda p: tmp_path / f'{p.stem}.npy', y_block=FrameMaskBlock(['no', 'yes'])
        ).one_batch()[1]
        == 1
    ).all()

# what does not fit

wrong_labels = {
    'too few': (lambda l: l[:-1], 'targets for 5 frames, it has 6'),
    'a gap': (lambda l: [*l[:-1], None], 'nothing is said of 1 of its 6 frames, the first is number 5'),
    'an empty one': (lambda l: ['', *l[1:]], 'the first is number 0'),
    'none': (lambda l: None, 'its labels are None'),
    'one word': (lambda l: 'a', "its labels are 'a'"),
}

@pytest.mark.parametrize('which', [0, 5])
@pytest.mark.parametrize('wrong', wrong_labels)
def test_wrong_labels_are_said_at_once_with_their_clip(videos, which, wrong, capsys):
    change, said = wrong_labels[wrong]
    files = get_videos(videos)
    with pytest.raises(ValueError, match=f'{files[which].name}.*{said}'):
        one_call(
            files,
            lambda p: change(words(p)) if p == files[which] else words(p),
            y_block=FrameCategoryBlock,
            splitter=[range(4), [4, 5]],
        )

def test_a_data_block_names_the_clip_without_labels(videos):
    with pytest.raises(ValueError, match=r'_c01.avi: its labels are None'):
        block(videos, FrameCategoryBlock, lambda p: None)

def test_every_number_is_looked_at(videos):
    numbers = np.ones((6, 2))
    numbers[3:, 1] = np.nan
    with pytest.raises(
        ValueError, match=r'a_g0\d_c01.avi: nothing is said of 3 of its 6 frames, the first is number 3'
    ):
        block(videos, FrameRegressionBlock, lambda p: numbers).one_batch()

@pytest.mark.parametrize('y_block,given', [(FrameRegressionBlock, np.ones(6)), (FrameMaskBlock(['no', 'yes']), np.ones((6, 24, 32)))], ids=['numbers', 'masks'])
def test_a_clip_without_targets_is_named(videos, y_block, given):
    "The others have some: only when it is drawn is it known"
    files = get_videos(videos)
    dls = one_call(files, lambda p: None if p == files[-1] else given, y_block=y_block, splitter=[range(4), [4, 5]])
    with pytest.raises(ValueError, match=f'{files[-1].name}: targets for 0 frames, it has 6'): list(dls.valid)

@pytest.mark.parametrize('mask,said', [
    (np.full((24, 32), 255, np.uint8), r'values from 255 to 255; expected numbers of 2 classes, 0 to 1; .*mask//255'), (np.zeros((24, 32, 3), np.uint8), r'shape \(24, 32, 3\); expected \(height, width\)'),
    (np.zeros((32, 24), np.uint8), r'masks of 32x24 .* for frames of 24x32')])
def test_masks_that_do_not_fit_are_named(videos, tmp_path, mask, said):
    with pytest.raises(ValueError, match=r'a_g0\d_c01.avi.*' + said):
        block(videos, FrameMaskBlock(['no', 'yes']), lambda p: np.stack([mask] * 6)).one_batch()
    for k in range(6): Image.fromarray(mask).save(tmp_path/f'{k}.png')
    with pytest.raises(ValueError, match=said):
        block(videos, FrameMaskBlock(['no', 'yes']), lambda p: tmp_path).one_batch()

@pytest.mark.parametrize('method,share', [('squish', 1/4), ('crop', 4/24)])
def test_masks_are_cut_as_their_frames(videos, method, share):
    "The left quarter of the masks; at any scale that has the frames' shape"
    for s in (1, 2):
        mask = np.zeros((6, 24*s, 32*s), np.uint8)
        mask[..., :8*s] = 1
        y = block(videos, FrameMaskBlock(['no', 'yes']), lambda p: mask, method=method).one_batch()[1]
        assert y.float().mean().item() == pytest.approx(share, abs=.03)

# numbers of clips of several lengths

def test_numbers_of_uneven_clips_are_learned(tmp_path):
    make_videos(tmp_path/'v', (3, 4, 5, 6, 4, 5))
    dls = block(
        tmp_path / 'v',
        FrameRegressionBlock,
        lambda p: np.linspace(0, 1, n_frames(p)),
        sampler=EveryFrame(),
        bs=4,
    )
    x, y = dls.one_batch()
    assert x.lengths and y.isnan().any()
    learn = seq_learner(dls, cnn, pretrained=False, hidden_size=4)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert np.isfinite(learn.recorder.values[-1]).all()
    out = torch.zeros_like(y.as_subclass(torch.Tensor)).requires_grad_()
    learn.loss_func(out, y).backward()
    said = ~y.isnan()
    assert torch.isfinite(out.grad).all() and (out.grad[~said] == 0).all()
    torch.testing.assert_close(
        learn.loss_func(out, y).detach().as_subclass(torch.Tensor),
        y[said].as_subclass(torch.Tensor).pow(2).mean(),
    )
    learn.show_results(max_n=2)

# frames to come

@pytest.mark.parametrize('tfm', [Normalize.from_stats([.5]*3, [.5]*3), RandomErasing(), RandomErasing])
def test_what_would_spoil_the_target_is_refused(videos, tfm, capsys):
    with pytest.raises(ValueError, match='leave it out'): future(videos, batch_tfms=[Rotate(), tfm])

def test_a_splitter_is_a_function(videos):
    with pytest.raises(ValueError, match=r"splitter='random': expected a function.*RandomSplitter"):
        future(videos, splitter='random')

def test_what_moves_both_alike_is_taken(tmp_path, capsys):
    "Of a video that stands still, what was seen and what is to come stay equal"
    frame = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    for i in range(6): write_video(tmp_path/f'{i}.avi', [frame]*12)
    x, y = future(tmp_path, batch_tfms=[Rotate(p=1), Hue(p=1)]).one_batch()
    assert (
        torch.allclose(x[:, -1].as_subclass(torch.Tensor), y[:, 0].as_subclass(torch.Tensor), atol=0.05)
        and (x[0, 0] - x[1, 0]).abs().mean() > 0.02
    )

def test_targets_that_are_no_frames_are_refused(videos):
    dls = DataBlock(
        FutureFrames(3, 2).blocks(16),
        get_items=get_videos,
        splitter=RandomSplitter(seed=0),
        batch_tfms=Normalize.from_stats([0.5] * 3, [0.5] * 3, cuda=False),
    ).dataloaders(videos, bs=2, num_workers=0)
    with pytest.raises(ValueError, match='from 0 to 1; leave Normalize out'):
        seq_learner(dls, ConvGRUForecaster, hidden=(4,))

def test_train_and_valid_are_taken_as_they_are(tmp_path, capsys):
    for part,n in (('train', 3), ('valid', 2), ('test', 2)): make_videos(tmp_path/part/'deep', (6,)*n, name=part[0])
    dls = future(tmp_path)
    assert [{f.parts[-3] for f in dl.items} for dl in (dls.train, dls.valid)] == [{'train'}, {'valid'}] and (
        len(dls.train.items),
        len(dls.valid.items),
    ) == (3, 2)
    dls = future(tmp_path, exclude=['train/deep/t_g02_c01.avi'])
    assert len(dls.train.items) == 2 and len(dls.valid.items) == 2
    assert (
        len(future(tmp_path / 'train', exclude=['deep/t_g01_c01.avi'], bs=1).train.items) == 1
    )  # no parts: all is split

def test_folders_of_frames_go_on_too(tmp_path, capsys):
    make_videos(tmp_path/'v', (6, 6))
    Image.new('RGB', (8, 8)).save(tmp_path/'v'/'cover.png')       # a picture beside videos is no clip
    for i in range(2):
        (tmp_path/f'f{i}').mkdir()
        for k in range(6): Image.new('RGB', (32, 24), (20*k,)*3).save(tmp_path/f'f{i}'/f'{k}.png')
    dls = future(tmp_path, bs=1)
    assert len(dls.train.items) + len(dls.valid.items) == 4

def test_where_the_part_begins_and_how_fast_is_chosen(tmp_path, capsys):
    make_videos(tmp_path/'v', (20,)*4)       # 25 frames a second
    first = future(tmp_path/'v', sampler=FirstFrames, fps=12.5).valid.one_batch()
    assert [s[1] for s in first[0].source] == [[0, 2, 4]] * len(first[0]) and [
        s[1] for s in first[1].source
    ] == [[6, 8]] * len(first[0])
    for bad in (UniformFrames, FirstFrames(5)):
        with pytest.raises(ValueError, match='RandomClip or FirstFrames'): future(tmp_path/'v', sampler=bad)

# arguments

def test_the_model_is_chosen_by_the_targets(videos, capsys):
    dls = FutureDataLoaders.from_folder(videos, n_in=4, n_out=1, size=16, bs=2, num_workers=0)
    assert type(seq_learner(dls, hid_s=4, hid_t=16, n_t=2, kernels=(3,)).model) is SimVP
    assert type(seq_learner(block(videos, *arrays['masks'][:2]), widths=(8, 8)).model) is TemporalUNet
    with pytest.raises(ValueError, match='an image network as `arch`'):
        seq_learner(block(videos, FrameCategoryBlock, words))

@pytest.mark.parametrize('kind,kwargs,said', [
    ('clips', dict(arch=SimVP, hid_s=8, sampled=ScheduledSampling()), 'SimVP is none'), ('clips', dict(arch=ConvGRUForecaster, head='gru'), "head='gru'.*targets are masks or frames"),
    ('clips', dict(arch=ConvGRUForecaster, n_out=2), 'n_out=2: `dls` tells it'), ('clips', dict(arch=ConvGRUForecaster, sampled=.5), 'expected ScheduledSampling'),
    ('classes', dict(arch=cnn, n_out=2), 'n_out=2: `dls` tells it'), ('classes', dict(arch=cnn, sampled=True, pretrained=False), 'SeqModel is none'), ('masks', dict(head='lstm'), 'targets are masks or frames')])
def test_arguments_that_do_not_apply_are_named(videos, kind, kwargs, said, capsys):
    dls = (
        future(videos)
        if kind == 'clips'
        else block(videos, *(FrameCategoryBlock, words) if kind == 'classes' else arrays['masks'][:2])
    )
    with pytest.raises(ValueError, match=said): seq_learner(dls, **kwargs)

def test_true_means_the_usual_schedule(videos, capsys):
    learn = seq_learner(future(videos), ConvGRUForecaster, hidden=(4,), sampled=True)
    assert [type(cb) for cb in learn.cbs if isinstance(cb, ScheduledSampling)]

# measures

def over(metric, batches):
    "The metric over `batches`, as a Learner asks it"
    class Asked: pass
    metric.reset()
    for pred, targ in batches:
        learn = Asked()
        learn.pred, learn.yb = pred, (targ,)
        metric.accumulate(learn)
    return metric.value

def test_measures_do_not_depend_on_the_batches():
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(4, 9, 2, generator=g), torch.randint(2, (4, 9), generator=g)
    labels[0], scores[0] = 0, torch.tensor([1., 0.])            # one segment, in the others many
    cuts = lambda x, y, n: [(x[i:i+n], y[i:i+n]) for i in range(0, 4, n)]
    f1 = f1_at(.5)
    assert (
        over(f1, cuts(scores, labels, 1))
        == over(f1, cuts(scores, labels, 4))
        == segmental_f1(scores.argmax(-1), labels, 0.5)
    )
    assert (
        np.mean([f1(*b) for b in cuts(scores, labels, 1)]) != pytest.approx(f1(scores, labels))
        and f1.name == 'f1@50'
    )
    scores, masks = torch.rand(4, 3, 2, 4, 4, generator=g), torch.randint(3, (4, 2, 4, 4), generator=g)
    masks[0] = 0
    masks[0, 0, 0, 0] = 1
    iou = MaskIoU()
    assert (
        over(iou, cuts(scores, masks, 1)).item()
        == pytest.approx(over(iou, cuts(scores, masks, 4)).item())
        == pytest.approx(mask_iou(scores, masks).item())
    )
    assert (
        np.mean([mask_iou(*b) for b in cuts(scores, masks, 1)])
        != pytest.approx(mask_iou(scores, masks).item())
        and iou.name == 'mask_iou'
    )
    assert (
        mask_iou(
            torch.tensor([1.0, 0]).view(1, 2, 1, 1, 1).expand(1, 2, 2, 4, 4), torch.zeros(1, 2, 4, 4).long()
        )
        == 1
    )

# pictures

def learned(videos, kind):
    y_block, get_y = {
        'classes': (FrameCategoryBlock, words),
        'numbers': arrays['several numbers'][:2],
        'masks': arrays['masks'][:2],
    }[kind]
    dls = block(videos, y_block, get_y)
    return seq_learner(
        dls, **(dict(widths=(8, 8)) if kind == 'masks' else dict(arch=cnn, pretrained=False, hidden_size=4))
    )

@pytest.mark.parametrize('kind', ['classes', 'numbers', 'masks'])
def test_labelled_clips_play(videos, kind, monkeypatch):
    pages = []
    for m in ("data.show_targets", "train.frame_labels"):
        monkeypatch.setattr(f'fastai_seq.{m}.display', lambda o: pages.append(o.data))
    learn = learned(videos, kind)
    learn.dls.show_batch(max_n=1, animate=True)
    with learn.no_bar(): learn.show_results(max_n=1, animate=True)
    assert [p.count('<img') for p in pages] == ([1, 2] if kind == 'masks' else [1, 1])
    if kind == 'classes': assert '→' in pages[0]

def test_words_below_a_clip_are_above_the_next(videos):
    from matplotlib import pyplot as plt
    learn = learned(videos, 'classes')
    with learn.no_bar(): learn.show_results(max_n=2, dl=learn.dls.train)
    fig = plt.gcf()
    fig.canvas.draw()
    upper, lower = [a for a in fig.axes if a.images]
    assert min(t.get_window_extent().y0 for t in upper.texts) > lower.get_window_extent().y1
    plt.close('all')

def test_input_and_target_are_drawn_at_one_scale(videos, capsys):
    from matplotlib import pyplot as plt
    FutureDataLoaders.from_folder(videos, n_in=4, n_out=1, size=16, bs=2, num_workers=0).show_batch(max_n=1)
    plt.gcf().canvas.draw()
    a, b = (ax.get_window_extent().height/ax.images[0].get_array().shape[0] for ax in plt.gcf().axes)
    assert a == pytest.approx(b, rel=.1)
    plt.close('all')

@pytest.mark.parametrize('kind', ['classes', 'clips'])
def test_results_without_targets_are_refused_in_words(videos, kind, capsys):
    learn = learned(videos, kind) if kind == 'classes' else seq_learner(future(videos), ConvGRUForecaster, hidden=(4,))
    files = get_videos(videos)[:2]
    with learn.no_bar():
        with pytest.raises(ValueError, match='with_labels=True'):
            learn.show_results(dl=learn.dls.test_dl(files, bs=2, num_workers=0))
        learn.show_results(dl=learn.dls.test_dl(files, bs=2, num_workers=0, with_labels=True))

def test_folders_to_train_and_to_validate_on_stay_so(tmp_path):
    make_videos(tmp_path/'train')
    make_videos(tmp_path/'valid', (6,)*3, name='b')
    for splitter in ({}, dict(splitter=None)):
        assert sorted(f.name for f in future(tmp_path, **splitter).valid.items) == [
            f'b_g0{i}_c01.avi' for i in (1, 2, 3)
        ]

def test_what_is_not_finished_is_no_clip(videos, tmp_path):
    cache_clips(videos, tmp_path/'c', size=16, workers=0)
    done = [*(tmp_path/'c').rglob('frames.npy')]
    (tmp_path/'c/.unfinished/x').mkdir(parents=True)
    shutil.copy(done[0], tmp_path/'c/.unfinished/x/frames.npy')
    assert set(_clips_below(tmp_path/'c')) == {f.parent for f in done}
