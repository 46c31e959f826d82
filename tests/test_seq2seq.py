"Sequences as targets: what is made of a clip stays with its frames, bad targets are named, forecasters are what they say, states equal whole passes."

import random
from functools import partial

import numpy as np, pytest, torch
from fastai.data.all import DataBlock, RandomSplitter
from fastai.layers import SimpleCNN
from fastai.learner import load_learner
from torch import nn

from fastai_seq.data.augment import DropFrames, RandomStride, ReverseTime, SpeedJitter
from fastai_seq.data.block import ImageSeqBlock
from fastai_seq.data.synthetic import MovingDigits, _digits, changing_clips, frame_labels
from fastai_seq.video.sampling import FirstFrames, RandomClip, UniformFrames
from fastai_seq.models.heads import head_classes
from fastai_seq.models.seqmodel import create_seq_model
from fastai_seq.models.forecaster import ConvGRUForecaster, ConvLSTMForecaster
from fastai_seq.models.simvp import SimVP
from fastai_seq.models.unet import TemporalUNet
from fastai_seq.models.per_frame import per_frame
from fastai_seq.deploy.continue_video import continue_video
from fastai_seq.train.scheduled import ScheduledSampling
from fastai_seq.train.forecast import copy_last, forecast_frames, horizon_errors
from fastai_seq.train.metrics import (edit_score, f1_at, frame_accuracy, frame_mse, frame_ssim, mask_iou,
                                      segmental_f1, label_segments)
from fastai_seq.train.learner import seq_learner
from fastai_seq.data.targets import FrameCategoryBlock, FrameRegressionBlock, TensorFrameMask
from fastai_seq.data.masks import FrameMaskBlock
from fastai_seq.data.future import FutureDataLoaders, FutureFrames
from fastai_seq.video.files import VideoError, get_videos, write_video
from fastai_seq.video.read import n_frames


@pytest.fixture(scope='module')
def changing(tmp_path_factory):
    return changing_clips(
        tmp_path_factory.mktemp('changing') / 'clips',
        n_groups=4,
        clips_per_group=2,
        n_frames=16,
        size=(32, 32),
    )


def loaders(path, block, get_y, seq_len=4, bs=2, item_tfms=None, batch_tfms=None, sampler=UniformFrames):
    return DataBlock(
        (ImageSeqBlock(seq_len, 32, sampler=sampler), block),
        get_items=get_videos,
        get_y=get_y,
        splitter=RandomSplitter(seed=0),
        item_tfms=item_tfms,
        batch_tfms=batch_tfms,
    ).dataloaders(path, bs=bs, num_workers=0)

# moving digits

def test_digits_are_seeded_endless_and_held_out():
    make = MovingDigits(range(4))
    assert torch.equal(make(10**9), MovingDigits(range(4))(10**9)) and not torch.equal(make(0), make(1))
    assert not torch.equal(make(0), MovingDigits(range(4), valid=False)(0))
    held, trained = ({d.tobytes() for d in _digits(o)} for o in (True, False))
    assert not held & trained and len(held | trained) > 1700
    random.seed(0)
    drawn = [make(0, split_idx=0) for _ in range(3)]
    assert not torch.equal(drawn[0], drawn[1]) and torch.equal(make(0, split_idx=1), make(0))

def test_digits_move_evenly_within_the_frame():
    "One digit: its centre of light goes the same way every frame, but where it bounces; it never leaves"
    for i in range(5):
        clip = MovingDigits(range(60), n_digits=1, digit_size=20)(i)[:, 0].float()
        light = clip.sum((1, 2))
        assert light.std()/light.mean() < .02
        grid = torch.arange(64.)
        at = torch.stack([(clip.sum(2)*grid).sum(1), (clip.sum(1)*grid).sum(1)], 1)/light[:, None]
        steps = at.diff(dim=0).norm(dim=1)
        assert ((steps - .1*44).abs() < .3).float().mean() > .6 and steps.max() < .1*44 + .5

def test_half_a_frame_is_between():
    a, half, b = (MovingDigits([t], n_digits=1)(1).float() for t in (0, .5, 1))
    assert (half - a).abs().sum() < (b - a).abs().sum() and (half - b).abs().sum() < (b - a).abs().sum()

def test_labels_tell_the_motion(changing):
    for f in get_videos(changing):
        labels = frame_labels(f)
        assert len(labels) == n_frames(f) and 2 <= 1 + sum(a != b for a, b in zip(labels, labels[1:])) <= 3

# frames to come

def test_input_and_target_are_one_part():
    for sampler in (RandomClip, FirstFrames):
        for n in range(14, 40):
            cut = FutureFrames(4, 3, stride=2, sampler=sampler)
            ins, outs = [], []
            for seed in range(5):
                random.seed(seed)
                ins = cut.inputs.for_training()(n)
                random.seed(seed)
                outs = cut.targets.for_training()(n)
                assert np.diff([*ins, *outs]).tolist() == [2]*6 and outs[-1] < n

def test_short_clips_are_named(changing):
    with pytest.raises(VideoError, match=r'v_Change_g01_c01.*16 frames, and n_in=10 and n_out=7 take 17'):
        FutureDataLoaders.from_folder(changing, n_in=10, n_out=7)

@pytest.mark.parametrize('tfm', [ReverseTime, DropFrames()])
def test_transforms_of_time_are_refused(changing, tfm):
    with pytest.raises(ValueError, match='order of input and target'):
        FutureDataLoaders.from_folder(changing, n_in=2, n_out=2, batch_tfms=tfm)

def test_transforms_move_both_alike(changing):
    "A clip as its own target stays its own target"
    from fastai.vision.augment import Flip, RandomResizedCrop, Rotate
    dls = DataBlock(
        (ImageSeqBlock(4, 32), ImageSeqBlock(4, 32)),
        get_items=get_videos,
        splitter=RandomSplitter(seed=0),
        item_tfms=RandomResizedCrop(24, min_scale=0.3),
        batch_tfms=[Flip(), Rotate(p=1.0), SpeedJitter(p=1.0)],
    ).dataloaders(changing, bs=4, num_workers=0)
    for x, y in dls.train: assert torch.equal(x.as_subclass(torch.Tensor), y.as_subclass(torch.Tensor))

# something for every frame

@pytest.mark.parametrize('tfm', [ReverseTime, SpeedJitter, DropFrames, RandomStride])
@pytest.mark.parametrize('where', ['item_tfms', 'batch_tfms'])
@pytest.mark.slow
def test_targets_go_with_their_frames(tmp_path, tfm, where):
    "Frames as bright as their number: label, number and mask must tell it, whatever happens to time"
    for i in range(6): write_video(tmp_path/f'{i}.avi', [np.full((32, 32, 3), 12*k, np.uint8) for k in range(16)])
    ways = {
        FrameCategoryBlock: lambda p: [f'{k:02}' for k in range(16)],
        FrameRegressionBlock: lambda p: np.arange(16.0),
        partial(FrameMaskBlock, range(16)): (
            lambda p: np.arange(16)[:, None, None].repeat(32, 1).repeat(32, 2)
        ),
    }
    for block, get_y in ways.items():
        block = block() if isinstance(block, partial) else block
        x, y = loaders(tmp_path, block, get_y, 8, 4, sampler=RandomClip, **{where: tfm(p=1.)}).one_batch()
        told = y.flatten(2)[..., 0] if y.ndim > 2 else y
        assert torch.equal(
            (x.as_subclass(torch.Tensor)[:, :, 0, 0, 0] * 255 / 12).round().long(),
            told.as_subclass(torch.Tensor).long(),
        )

@pytest.mark.parametrize('block,get_y,said', [
    (FrameCategoryBlock, lambda p: frame_labels(p)[:-3], 'targets for 13 frames, it has 16'),
    (FrameCategoryBlock, lambda p: [*frame_labels(p), 'Up'], 'targets for 17 frames, it has 16'),
    (FrameCategoryBlock, lambda p: [*frame_labels(p)[:-3], None, '', float('nan')], 'nothing is said of 3 of its 16 frames, the first is number 13'),
    (FrameRegressionBlock, lambda p: np.full((16, 2), np.nan), 'nothing is said of 16'),
    (FrameMaskBlock(['a', 'b']), lambda p: np.full((16, 8, 8), 7), 'expected numbers of 2 classes'),
    (FrameMaskBlock(['a', 'b']), lambda p: np.zeros((15, 8, 8)), 'targets for 15 frames, it has 16')])
def test_targets_that_do_not_fit_are_named(changing, block, get_y, said, capsys):
    with pytest.raises(ValueError, match=said): loaders(changing, block, get_y).one_batch()

def test_masks_in_a_folder(tmp_path):
    from PIL import Image
    for i in range(4):
        write_video(tmp_path/f'{i}.avi', [np.full((32, 48, 3), 200*(k == 3), np.uint8) for k in range(6)])
        (tmp_path/f'{i}').mkdir()
        for k in range(6): Image.fromarray(np.full((32, 48), k == 3, np.uint8)).save(tmp_path/f'{i}'/f'{k}.png')
    x, y = loaders(tmp_path, FrameMaskBlock(['no', 'yes']), lambda p: p.with_suffix(''), 6).one_batch()
    assert type(y) is TensorFrameMask and y.shape == (2, 6, 32, 32) and (y[:, 3] == 1).all() and y.sum() == 2*32*32

# models

def clip(b=2, t=5, size=16): return torch.rand(b, t, 3, size, size, generator=torch.Generator().manual_seed(0))

@pytest.mark.parametrize('make', [ConvLSTMForecaster, ConvGRUForecaster])
def test_a_stream_equals_the_whole(make):
    model, x = make(n_out=4, hidden=(8, 4)).eval(), clip(t=7)
    with torch.no_grad():
        whole, state = model(x), None
        for t in range(7): frame, state = model.step(x[:, t], state)
        for k in range(4):
            torch.testing.assert_close(frame, whole[:, k], atol=1e-5, rtol=1e-4)
            frame, state = model.step(frame, state)

def test_scheduled_sampling_is_the_truth_or_the_guess():
    model, x, y = ConvGRUForecaster(n_out=4, hidden=(8,)).eval(), clip(), clip(t=4) + 1
    with torch.no_grad():
        free = model(x)
        model.p_true = 1.
        told = model(x, y)
        torch.testing.assert_close(told[:, 0], free[:, 0])
        assert not torch.allclose(told[:, 1:], free[:, 1:], atol=1e-4)
        torch.testing.assert_close(told[:, 3], model.watch(torch.cat([x, y[:, :3]], 1))[0], atol=1e-5, rtol=1e-4)
        model.p_true = .5
        torch.manual_seed(0)
        mixed = model(x.repeat(40, 1, 1, 1, 1), y.repeat(40, 1, 1, 1, 1))[:, 1]
        shares = ((mixed - told[:, 1].repeat(40, 1, 1, 1)).abs().amax((1, 2, 3)) < 1e-5).float().mean()
        assert .25 < shares < .75
        model.p_true = 0.
        torch.testing.assert_close(model(x, y), free)

def test_simvp_sees_all_frames_and_any_horizon():
    x = clip(t=4)
    for n_out in (1, 4, 9):
        model = SimVP(4, n_out, hid_s=8, hid_t=32, n_t=2, kernels=(3, 5)).eval()
        with torch.no_grad():
            out = model(x)
            assert out.shape == (2, n_out, 3, 16, 16)
            for t in range(4):
                other = x.clone()
                other[:, t] = 0
                assert not torch.allclose(model(other)[:, 0], out[:, 0], atol=1e-5)

@pytest.mark.parametrize('make', [ConvLSTMForecaster, ConvGRUForecaster, partial(SimVP, hid_s=8, hid_t=32, n_t=2, kernels=(3, 5))])
def test_every_parameter_learns(make):
    model = make(n_in=4, n_out=3)
    model(clip(t=4)).pow(2).mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]

@pytest.mark.parametrize('make', [partial(ConvGRUForecaster, hidden=(8,)), partial(SimVP, hid_s=8, hid_t=32, n_t=2, kernels=(3, 5)), lambda n_in, n_out: TemporalUNet(2, widths=(8, 16))])
@pytest.mark.slow
def test_models_can_be_exported_as_graphs(make):
    model, x = make(n_in=4, n_out=3).eval(), clip(1, 4)
    graph = torch.export.export(model, (x,)).module()
    with torch.no_grad(): torch.testing.assert_close(graph(x), model(x), atol=1e-5, rtol=1e-4)

@pytest.mark.parametrize('head', [h for h in head_classes if h != 'shift'])
def test_each_head_answers_for_each_frame_and_padding_changes_nothing(head):
    model, x = create_seq_model(
        partial(SimpleCNN, [3, 4, 8]), 5, per_frame(per_frame(head)), pretrained=False
    ).eval(), clip(
        2, 6, 32
    )  # said twice is said once
    with torch.no_grad():
        assert model(x).shape == (2, 6, 5)
        torch.testing.assert_close(model(x, (6, 4))[1, :4], model(x[1:, :4])[0], atol=1e-4, rtol=1e-3)

# measures

def test_segments_measures_by_hand():
    assert label_segments([1, 1, 2]) == [(1, 0, 2), (2, 2, 3)] and label_segments([]) == []
    assert edit_score('aabb', 'aaabbb') == 1 and edit_score('abab', 'ab') == .5 and edit_score('b', 'a') == 0
    assert segmental_f1(['aabb'], ['aabb']) == 1 and segmental_f1(['abab'], ['aabb'], 0.4) == pytest.approx(
        2 * 2 / 6
    )  # one match a true segment, whatever overlaps
    assert segmental_f1(['aaaabb'], ['aabbbb'], .6) == 0 and segmental_f1(['aaaabb'], ['aabbbb'], .5) == 1

def test_measures_pass_over_padding():
    scores, targ = nn.functional.one_hot(torch.tensor([[0, 1, 1, 0]]), 2).float(), torch.tensor([[0, 1, -100, -100]])
    assert frame_accuracy(scores, targ) == 1 and f1_at(.5)(scores, targ) == 1
    scores, targ = torch.zeros(1, 2, 2, 2, 2), torch.tensor([[[[0, 1], [1, 1]], [[-100]*2]*2]])
    scores[:, 1, 0, 0] = 1.
    scores[:, 1, 1] = 1.                       # the first row of frame 0, and all of the frame that is not there
    assert mask_iou(scores, targ) == pytest.approx(1/4)

def test_ssim_is_what_its_formula_says():
    a, b = clip(1, 1, 11), clip(2, 1, 11)[1:]
    g = torch.exp(-(torch.arange(11) - 5.)**2/4.5)
    w = g[:, None]*g/g.sum()**2
    mean = lambda o: (o*w).sum((-1, -2))
    ma, mb, c1, c2 = mean(a), mean(b), 1e-4, 9e-4
    expect = (
        (2 * ma * mb + c1)
        * (2 * (mean(a * b) - ma * mb) + c2)
        / ((ma**2 + mb**2 + c1) * (mean(a * a) - ma**2 + mean(b * b) - mb**2 + c2))
    )
    torch.testing.assert_close(frame_ssim(a, b), expect.mean(2), atol=1e-4, rtol=1e-3)

# learners


@pytest.fixture(scope='module')
def digits():
    return FutureDataLoaders.from_digits(
        3, 4, n_train=32, n_valid=8, bs=8, size=16, digit_size=7, num_workers=0
    )


def test_a_forecaster_learns_and_its_horizon_is_its_loss(digits):
    learn = seq_learner(digits, ConvGRUForecaster, hidden=(16,), metrics=[])
    before = learn.validate()[0]
    with learn.no_bar(), learn.no_logging(): learn.fit(4, 1e-2)
    after = learn.validate()[0]
    assert after < .8*before
    errors = horizon_errors(learn)
    assert list(errors.index) == [1, 2, 3, 4] and np.isfinite(errors.values).all()
    more = horizon_errors(learn, measures=dict(twice=lambda p, t: 2*frame_mse(p, t)))
    assert np.allclose(more.twice, 2*errors.mse) and list(more.columns) == [*errors.columns, 'twice']
    still = horizon_errors(lambda x: copy_last(x, 4), digits.valid).mse
    assert still.is_monotonic_increasing or still.iloc[0] < still.iloc[1:].min()

def test_schedule_ends_at_zero_and_leaves_validation_alone(digits):
    from fastai.callback.core import Callback
    seen = []
    class Watch(Callback):
        order = 50
        def before_batch(self): seen.append((self.training, self.learn.model.p_true, len(self.xb)))
    learn = seq_learner(
        digits, ConvGRUForecaster, hidden=(4,), sampled=ScheduledSampling(0.8, 0.5), cbs=Watch(), metrics=[]
    )
    with learn.no_bar(), learn.no_logging(): learn.fit(4)
    ps = [p for training, p, _ in seen if training]
    assert (
        ps[0] == pytest.approx(0.8)
        and ps == sorted(ps, reverse=True)
        and ps[8:] == [0] * 8
        and {n for training, _, n in seen if not training} == {1}
    )
    with pytest.raises(ValueError, match='p_true'):
        with learn.no_bar():
            seq_learner(
                digits, SimVP, hid_s=8, hid_t=32, n_t=2, kernels=(3,), sampled=None, cbs=ScheduledSampling()
            ).fit(1)

@pytest.mark.parametrize('model,said', [(lambda: ConvGRUForecaster(n_out=3), r'gives \(8, 3, 3, 16, 16\).*ask for \(8, 4, 3, 16, 16\)'), (lambda: SimVP(5, 4), 'made for 5 frames, the batch has 3'),
                                        (lambda: SimVP(3, 4, n_channels=3, groups=4, hid_s=8, n_s=10), 'multiples of 32')])
def test_models_that_do_not_fit_are_named(digits, model, said):
    with pytest.raises(ValueError, match=said): seq_learner(digits, model())

def test_a_video_goes_on(digits, tmp_path):
    learn = seq_learner(digits, ConvGRUForecaster, hidden=(4,), metrics=[])
    path = write_video(tmp_path/'v.avi', [np.full((32, 32, 3), 20*k, np.uint8) for k in range(5)])
    assert n_frames(continue_video(learn, path, tmp_path/'w.avi', n_out=9)) == 14
    frames = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            forecast_frames(learn, frames), learn.model.eval()(frames[None, -3:])[0].clamp(0, 1)
        )
    first, more = forecast_frames(learn, frames), forecast_frames(learn, frames, 6)
    torch.testing.assert_close(more, torch.cat([first, forecast_frames(learn, first)[:2]]))
    with pytest.raises(ValueError, match='has 2 frames, the model sees 3'): forecast_frames(learn, frames[:2])

def test_strides_of_the_loader_are_kept(changing, tmp_path):
    dls = FutureDataLoaders.from_folder(changing, n_in=3, n_out=2, size=16, stride=2, bs=2, seed=0, num_workers=0)
    learn = seq_learner(dls, ConvGRUForecaster, hidden=(4,), metrics=[])
    assert n_frames(continue_video(learn, get_videos(changing)[0], tmp_path/'w.avi')) == 8 + 2
    learn.show_results(max_n=1)
    dls.show_batch(max_n=1)
    learn.export(tmp_path/'m.pkl')
    again = load_learner(tmp_path/'m.pkl')
    assert n_frames(continue_video(again, get_videos(changing)[0], tmp_path/'x.avi', n_out=5)) == 8 + 5

def test_labels_and_masks_learn_in_one_call(changing, tmp_path):
    dls = loaders(changing, FrameCategoryBlock, frame_labels)
    learn = seq_learner(dls, partial(SimpleCNN, [3, 4]), pretrained=False, hidden_size=8)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    pred, _, probs = learn.predict(get_videos(changing)[0])
    assert set(pred) <= set(dls.vocab) and probs.shape == (4, len(dls.vocab))
    learn.show_results(max_n=2)
    learn.export(tmp_path/'m.pkl')
    same = load_learner(tmp_path/'m.pkl').predict(get_videos(changing)[0])
    assert list(same[0]) == list(pred)
    dls = loaders(changing, FrameMaskBlock(['a', 'b']), lambda p: np.zeros((16, 32, 32)))
    learn = seq_learner(dls, TemporalUNet, widths=(8, 8))
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
    learn.show_results(max_n=2)
    assert learn.validate()[0] < .69

def test_arguments_that_would_fail_late():
    for bad in (dict(pct=0), dict(pct=2), dict(start=3)):
        with pytest.raises(ValueError, match='share of the training above 0'): ScheduledSampling(**bad)
    with pytest.raises(ValueError, match='pass a loader of clips'): horizon_errors(lambda x: copy_last(x, 2))
    assert segmental_f1([], []) == 0
    with pytest.raises(ValueError, match='shorter|longer'): segmental_f1(['ab'], ['ab', 'a'])
    with pytest.raises(TypeError, match="takes no 'hidden'; it takes num_rnn_layers, hidden_size"):
        create_seq_model(partial(SimpleCNN, [3, 8]), 2, per_frame('lstm'), False, hidden=8)
