"Forecasters, answers for every frame and masks in use: a stream says what the whole clip says, bundles and exported models answer as their learner did."

import gc, json, math, subprocess, sys, weakref
from fractions import Fraction
from functools import partial

import numpy as np, pytest, torch
from fastai.data.all import DataBlock, RandomSplitter
from fastai.layers import SimpleCNN
from fastai.vision.augment import Resize
from PIL import Image
from torch import nn
from torchvision.models import mobilenet_v3_small, squeezenet1_1

from fastai_seq.deploy import continue_video as continue_video_room, label_frames as label_frames_room
from fastai_seq.deploy.bundle import _digest, load_bundle, save_bundle
from fastai_seq.core import TensorVideo
from fastai_seq.cli import main
from fastai_seq.data.block import ImageSeqBlock
from fastai_seq.judge.evaluate import evaluate_clips
from fastai_seq.data.synthetic import changing_clips, frame_labels
from fastai_seq.deploy.export import export_onnx
from fastai_seq.deploy.predict import predict_video
from fastai_seq.models.heads import AvgHead, head_classes
from fastai_seq.deploy.runtime import OnnxPredictor
from fastai_seq.video.sampling import EveryFrame, FirstFrames, RandomClip
from fastai_seq.models.forecaster import ConvGRUForecaster, ConvLSTMForecaster
from fastai_seq.models.simvp import SimVP
from fastai_seq.models.unet import TemporalUNet
from fastai_seq.train.forecast import forecast_frames
from fastai_seq.train.learner import seq_learner
from fastai_seq.deploy.continue_video import continue_video
from fastai_seq.deploy.stream import StreamForecast, StreamPredictor
from fastai_seq.deploy.stream_memory import FeatureRing, FrameRing, RecurrentState
from fastai_seq.data.targets import FrameCategoryBlock, FrameRegressionBlock
from fastai_seq.data.masks import FrameMaskBlock
from fastai_seq.data.future import FutureDataLoaders
from fastai_seq.deploy.label_frames import middles
from fastai_seq.deploy.label_frames import label_frames
from fastai_seq.deploy.predict_timeline import predict_timeline
from fastai_seq.video.clip import VideoRange
from fastai_seq.video.files import get_videos, write_video
from fastai_seq.video.read import n_frames, read_frames, video_info


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    return changing_clips(
        tmp_path_factory.mktemp('changing') / 'clips',
        n_groups=4,
        clips_per_group=2,
        n_frames=16,
        size=(48, 40),
    )


@pytest.fixture(scope='module')
def clip(clips): return get_videos(clips)[0]

cnn = partial(SimpleCNN, [3,4,8])
rates = lambda path: np.linspace(0, 1, n_frames(path))
marks = lambda path: np.zeros((n_frames(path), 48, 40), np.uint8)

def framewise(path, block=FrameCategoryBlock, get_y=frame_labels, **kwargs):
    return DataBlock(
        (ImageSeqBlock(4, 32, **kwargs), block),
        get_items=get_videos,
        get_y=get_y,
        splitter=RandomSplitter(seed=0),
    ).dataloaders(path, bs=2, num_workers=0)


def future(path, **kwargs):
    return FutureDataLoaders.from_folder(
        path, n_in=4, n_out=3, size=32, bs=2, seed=0, num_workers=0, **kwargs
    )


def digits(path):
    return FutureDataLoaders.from_digits(
        4, 3, size=32, digit_size=14, n_train=4, n_valid=2, bs=2, num_workers=0
    )


def heads(head, net=squeezenet1_1): return lambda path: seq_learner(framewise(path), net, head=head, pretrained=False)
small_vp = dict(hid_s=4, hid_t=16, n_s=2, n_t=2, kernels=(3,), groups=2)
made = {
    'ConvLSTM': lambda path: seq_learner(future(path), ConvLSTMForecaster, hidden=(8, 8)),
    'ConvGRU, stride 2': lambda path: seq_learner(future(path, stride=2), ConvGRUForecaster, hidden=(8,)),
    'ConvGRU, digits': lambda path: seq_learner(digits(path), ConvGRUForecaster, hidden=(8,)),
    'SimVP': lambda path: seq_learner(future(path), SimVP, **small_vp),
    'classes': heads('lstm'),
    'numbers': lambda path: seq_learner(
        framewise(path, FrameRegressionBlock, rates),
        squeezenet1_1,
        head='transformer',
        pretrained=False,
        dim=16,
    ),
    'masks': lambda path: seq_learner(
        framewise(path, FrameMaskBlock(['none', 'mark']), marks), TemporalUNet, widths=(8, 16)
    ),
}

def settled(learn):
    "With running statistics that are not those of the start"
    for m in learn.model.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.normal_()
            m.running_var.uniform_(.5, 2)
    learn.model.eval()
    return learn

def answer(learn, clip):
    with learn.no_bar(), learn.no_logging(): return learn.predict(clip)

def whole(learn, frames):
    "What the model says of all `frames`"
    x = learn.dls.valid.after_batch(TensorVideo.create(frames)[None])
    with torch.no_grad(): return learn.model.eval()(x)[0].as_subclass(torch.Tensor)

def frames_of(clip, n=12): return read_frames(clip, range(n), size=(32,32), method='crop')

# streams

sees = (
    dict.fromkeys(('lstm', 'gru', 'convlstm', 'convgru'), RecurrentState)
    | dict.fromkeys(('mean', 'avg', 'max', 'attention', 'diff', 'transformer'), FeatureRing)
    | dict(shift=FrameRing)
)

@pytest.mark.parametrize('head', head_classes)
@pytest.mark.slow
def test_each_frame_is_answered_as_offline(clips, clip, head):
    "What does not look ahead as in the whole video; what does, as in the clip that ends at the frame"
    learn = settled(heads(head, mobilenet_v3_small if head == 'shift' else cnn)(clips))
    stream, frames = StreamPredictor(learn, seq_len=None if sees[head] is RecurrentState else 5), frames_of(clip)
    assert type(stream.memory) is sees[head]
    said, p = [stream.push(f) for f in frames], whole(learn, frames).softmax(-1)
    assert [a.frame for a in said] == list(range(12)) and all(
        a.label == learn.dls.vocab[max(range(4), key=list(a.probs.values()).__getitem__)] for a in said
    )
    got = torch.tensor([list(a.probs.values()) for a in said])
    if head in ('transformer', 'shift'):
        p = torch.stack([whole(learn, frames[max(0, t - 4) : t + 1]).softmax(-1)[-1] for t in range(12)])
    assert torch.allclose(got, p, atol=1e-5)

def test_the_state_of_each_frame_stays_small_and_begins_anew(clips, clip):
    learn = settled(heads('gru', cnn)(clips))
    stream, frames = StreamPredictor(learn, every=3, stride=1), frames_of(clip)
    a = [stream.push(f) for f in frames]
    assert [o is not None for o in a] == [False, False, True]*4 and stream.memory.state.numel() == 512
    stream.reset()
    assert [stream.push(f) for f in frames[:3]][2].probs == a[2].probs

def test_both_ways_is_a_ring(clips, clip):
    learn = settled(
        seq_learner(framewise(clips), cnn, head='lstm', pretrained=False, bidirectional=True, hidden_size=8)
    )
    stream, frames = StreamPredictor(learn), frames_of(clip)
    said = [stream.push(f) for f in frames]
    assert type(stream.memory) is FeatureRing and np.allclose(
        list(said[7].probs.values()), whole(learn, frames[4:8]).softmax(-1)[-1], atol=1e-5
    )

def test_numbers_of_each_frame(clips, clip):
    learn = settled(made['numbers'](clips))
    stream, frames = StreamPredictor(learn), frames_of(clip, 3)
    said = [stream.push(f) for f in frames]
    assert np.allclose([a.label for a in said], [whole(learn, frames[:t+1])[-1].tolist() for t in range(3)], atol=1e-5)

@pytest.mark.parametrize('kind', ['ConvLSTM', 'ConvGRU, digits'])
def test_forecasts_from_the_state_are_those_of_all_frames(clips, clip, kind):
    learn = settled(made[kind](clips))
    stream, frames = StreamPredictor(learn, seq_len=math.inf), frames_of(clip)
    for t,f in enumerate(frames):
        a = stream.push(f, time=t/8)
        assert isinstance(a, StreamForecast) and (a.frame, a.time) == (t, t/8) and a.frames.shape == (3,3,32,32)
        assert torch.allclose(a.frames, whole(learn, frames[:t+1]).clamp(0, 1), atol=1e-5)
    assert [s[0].shape for s in stream.memory.state][0] == (1,8,8,8)

@pytest.mark.parametrize('kind', ['ConvLSTM', 'ConvGRU, digits', 'SimVP'])
def test_forecasts_are_those_of_the_frames_so_far(clips, clip, kind):
    learn = settled(made[kind](clips))
    stream, frames = StreamPredictor(learn), frames_of(clip)
    said = [stream.push(f) for f in frames]
    assert said[:3] == [None]*3 and type(stream.memory) is FrameRing
    for t in range(3, 12):
        assert torch.allclose(
            said[t].frames,
            forecast_frames(learn, torch.from_numpy(np.stack(frames[: t + 1])).permute(0, 3, 1, 2) / 255),
            atol=1e-5,
        )

def test_a_stream_takes_the_stride_of_training(clips, clip):
    learn = settled(made['ConvGRU, stride 2'](clips))
    said = list(StreamPredictor(learn).run(clip))
    assert [a and a.frame for a in said] == list(range(6, 16, 2))      # four must be there

def test_what_a_stream_cannot_say_is_named(clips, clip):
    with pytest.raises(ValueError, match='masks'): StreamPredictor(made['masks'](clips))
    with pytest.raises(ValueError, match='smooth=0.5'): StreamPredictor(made['ConvLSTM'](clips), smooth=.5)
    with pytest.raises(ValueError, match='thresh=0.5'): StreamPredictor(made['ConvLSTM'](clips), thresh=.5)
    with pytest.raises(ValueError, match='seq_len=inf: SimVP'): StreamPredictor(made['SimVP'](clips), seq_len=math.inf)
    for ask in (partial(predict_video, path=clip), evaluate_clips):
        with pytest.raises(ValueError, match='neither classes nor numbers of whole clips.*label_frames'):
            ask(made['classes'](clips))
    stream = StreamPredictor(made['SimVP'](clips), seq_len=3)
    with pytest.raises(ValueError, match='made for 4 frames'): [stream.push(f) for f in frames_of(clip)]

def test_what_is_asked_of_a_stream_counts(clips, clip):
    "None of its arguments changes nothing"
    learn, frames = settled(heads('gru', cnn)(clips)), frames_of(clip)
    stream = StreamPredictor(learn, seq_len=3)
    said = [stream.push(f) for f in frames]
    assert np.allclose(list(said[9].probs.values()), whole(learn, frames[7:10]).softmax(-1)[-1], atol=1e-5)
    forecaster = settled(made['ConvLSTM'](clips))
    stream = StreamPredictor(forecaster, seq_len=6)
    said = [stream.push(f) for f in frames]
    assert said[4] is None and torch.allclose(said[9].frames, whole(forecaster, frames[4:10]).clamp(0, 1), atol=1e-5)
    with pytest.raises(ValueError, match='fps=5, stride=2'): StreamPredictor(learn, fps=5, stride=2)

# every frame of a video


@pytest.fixture(scope='module')
def video(clips, tmp_path_factory):
    return write_video(
        tmp_path_factory.mktemp('video') / 'v.avi',
        [f for c in get_videos(clips)[:3] for f in read_frames(c, range(15))],
        fps=Fraction(30000, 1001),
    )


label = partial(label_frames, progress=False)
def frames45(video): return read_frames(video, range(45), size=(32,32), method='crop')

@pytest.mark.parametrize('head', head_classes)
@pytest.mark.slow
def test_every_frame_is_labelled_as_in_the_whole_or_in_a_window(clips, video, head):
    learn = settled(heads(head, mobilenet_v3_small if head == 'shift' else cnn)(clips))
    tl, frames = label(learn, video), frames45(video)
    assert (
        len(tl.df) == tl.frames == 45
        and np.allclose(tl.df.start, np.arange(45) * 1001 / 30000, atol=1e-5)
        and list(tl.values) == list(learn.dls.vocab)
    )
    if head in (
        'transformer',
        'shift',
    ):  # windows of 4: the first has three answers, others the two in their middle, the last what is left
        p = torch.cat([
            whole(learn, frames[:4])[:3],
            *(whole(learn, frames[i : i + 4])[1:3] for i in range(2, 41, 2)),
            whole(learn, frames[41:])[2:],
        ])
    else:
        p = whole(learn, frames)
    np.testing.assert_allclose(tl.values, p.softmax(-1), atol=1e-5)
    assert tl.df.label.tolist() == [learn.dls.vocab[i] for i in p.argmax(-1)]

@pytest.mark.parametrize('head', ['gru', 'mean', 'transformer'])
def test_frames_are_seen_as_far_apart_as_in_training(clips, video, head):
    for sampler,n in ((RandomClip(4, stride=3), 3), (FirstFrames(4, fps=15), 2)):
        learn = settled(seq_learner(framewise(clips, sampler=sampler), cnn, head=head, pretrained=False))
        got, frames = label(learn, video).values.to_numpy(), frames45(video)
        for k in range(n):
            alone = frames[k::n]
            want = (
                whole(learn, alone).softmax(-1)
                if head != 'transformer'
                else torch.stack([*middles(alone, 4, lambda w: whole(learn, np.stack(w)).softmax(-1))])
            )
            np.testing.assert_allclose(got[k::n], want, atol=1e-5)
    np.testing.assert_allclose(
        label(learn, video, stride=1, seq_len=45).values, whole(learn, frames).softmax(-1), atol=1e-5
    )

def test_numbers_of_every_frame_and_a_video_shorter_than_a_clip(clips, video, tmp_path):
    learn = settled(made['numbers'](clips))
    assert label(learn, video).numbers and len(label(learn, video).df) == 45
    short = write_video(tmp_path/'s.avi', frames45(video)[:3])
    np.testing.assert_allclose(label(learn, short).values, whole(learn, read_frames(short, range(3))), atol=1e-5)

def alive(monkeypatch, n):
    "Videos of `n` frames; gives the greatest number of them that were there at once"
    class Frame(np.ndarray): pass
    here, most = set(), [0]
    def get(i):
        f = np.random.default_rng(i).integers(0, 256, (32,32,3), dtype=np.uint8).view(Frame)
        here.add(i)
        weakref.finalize(f, here.discard, i)
        gc.collect(1)       # plum's and fasttransform's frames are in circles, on Python 3.13
        most[0] = max(most[0], len(here))
        return f
    for room in (continue_video_room, label_frames_room):
        monkeypatch.setattr(room, 'timed_frames', lambda *a: ((None, partial(get, i)) for i in range(n)))
    monkeypatch.setattr(continue_video_room, 'n_frames', lambda p: n)
    return most

@pytest.mark.parametrize('head', ['gru', 'shift', 'transformer'])
@pytest.mark.slow
def test_a_long_video_is_labelled_in_the_memory_of_a_short_one(clips, video, monkeypatch, head):
    learn = heads(head, mobilenet_v3_small if head == 'shift' else cnn)(clips)
    most = alive(monkeypatch, 300)
    assert len(label(learn, video, stride=2).df) == 300 and most[0] < 100

@pytest.mark.slow
def test_a_timeline_of_frames(clips, video, saved, tmp_path, capsys):
    learn = saved[0]['classes']
    tl = predict_timeline(learn, video, progress=False)
    assert tl.df.equals(label(learn, video).df) and tl.segments().end.iloc[-1] == pytest.approx(45*1001/30000, abs=1e-4)
    assert n_frames(tl.to_video(tmp_path / 'o.mp4')) == 45 and [
        tl.at((i + 0.5) * 1001 / 30000) for i in range(45)
    ] == list(range(45))
    assert tl.to_html(tmp_path/'o.html').exists() and tl.plot() and tl.text(3).startswith(tl.df.label[3])
    assert main(['predict', str(saved[1][list(saved[0]).index('classes')]), str(video), '--timeline', '--csv']) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 45
    assert set(label(learn, video, thresh=1.).df.label) == {None}
    for kwargs in (dict(window=2), dict(stride=.5), dict(save='x'), dict(bs=3), dict(sampler=EveryFrame())):
        with pytest.raises(ValueError, match=next(iter(kwargs))): predict_timeline(learn, video, **kwargs)

def test_what_cannot_be_labelled_is_named(clips, video, tmp_path):
    clipwise = seq_learner(framewise(clips), cnn, pretrained=False)
    with pytest.raises(ValueError, match='whole video'): label(clipwise, VideoRange(video, 0, 1))
    for kind in ('SimVP', 'masks'):
        with pytest.raises(
            ValueError, match='does not answer for every frame.*predict_timeline.*continue_video'
        ):
            label(made[kind](clips), video)
    cut = tmp_path/'cut.avi'
    cut.write_bytes(video.read_bytes()[:video.stat().st_size*2//3])
    with pytest.raises(ValueError, match='not whole'): label(clipwise, cut)
    kept, full = label(clipwise, cut, on_error='keep').df, label(clipwise, video).df
    n = len(kept) - 2
    assert 10 < n < 43 and np.allclose(kept.iloc[:n, 3:], full.iloc[:n, 3:], atol=1e-5)
    with pytest.raises(ValueError, match='seq_len='):
        label(seq_learner(framewise(clips, sampler=EveryFrame()), cnn, head='mean', pretrained=False), video)

# going on with a video

def test_a_video_is_not_written_over_itself(clips, video):
    before = video.read_bytes()
    with pytest.raises(ValueError, match='is the video itself'):
        continue_video(made['SimVP'](clips), video, video.parent / '..' / video.parent.name / video.name)
    assert video.read_bytes() == before

@pytest.mark.parametrize('kind', ['plain', 'resized', 'stride', 'folder'])
def test_what_follows_is_the_forecast_of_the_last_frames(clips, video, tmp_path, kind):
    kwargs = dict(resized=dict(item_tfms=Resize(24, method='squish')), stride=dict(stride=2)).get(kind, {})
    learn = settled(seq_learner(future(clips, **kwargs), ConvGRUForecaster, hidden=(8,)))
    step, size, path = kwargs.get('stride', 1), 24 if kind == 'resized' else 32, video
    if kind == 'folder':
        (path := tmp_path/'frames').mkdir()
        for i,f in enumerate(frames45(video)): Image.fromarray(f).save(path/f'{i}.png')
    dest = continue_video(learn, path, tmp_path/'o.avi', n_out=5, mark=False)
    frames = frames45(video)[44%step::step]
    assert n_frames(dest) == len(frames) + 5 and (info := video_info(dest)).width == size
    assert Fraction(info.fps).limit_denominator(10010) == (25 if kind == 'folder' else Fraction(30000, 1001)/step)
    x = torch.from_numpy(frames).permute(0,3,1,2)
    if kind == 'resized': x = Resize(24, method='squish')(TensorVideo(x), split_idx=1).as_subclass(torch.Tensor)
    want = torch.cat([x/255, forecast_frames(learn, x/255, 5)])
    got = torch.from_numpy(read_frames(dest, range(len(want)))).permute(0,3,1,2)/255
    assert (got - want).abs().mean() < .05        # the codec's loss

def test_a_long_video_goes_on_in_the_memory_of_a_short_one(clips, video, monkeypatch, tmp_path):
    learn = made['ConvLSTM'](clips)
    most = alive(monkeypatch, 300)
    assert n_frames(continue_video(learn, video, tmp_path/'o.avi')) == 303 and most[0] <= 3

def test_what_cannot_go_on_is_named(clips, clip, video, tmp_path):
    learn, short = made['ConvLSTM'](clips), write_video(tmp_path/'s.avi', frames45(video)[:3])
    for n in (0, -1):
        with pytest.raises(ValueError, match=f'n_out={n}'): continue_video(learn, clip, tmp_path/'o.avi', n_out=n)
    with pytest.raises(ValueError, match='3 frames, the model sees 4'): continue_video(learn, short, tmp_path/'o.avi')
    with pytest.raises(ValueError, match='not trained for frames to come.*label_frames'):
        continue_video(made['classes'](clips), clip, tmp_path / 'o.avi')
    with pytest.raises(ValueError, match='SeqModel does not tell.*label_frames'):
        forecast_frames(made['classes'](clips), torch.rand(4, 3, 32, 32))
    with pytest.raises(ValueError, match='uint8.*255'):
        forecast_frames(learn, torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    assert not (tmp_path/'o.avi').exists()

# bundles

@pytest.fixture(scope='module')
def saved(clips, tmp_path_factory):
    "Every kind of learner, in a bundle of its own"
    folder = tmp_path_factory.mktemp('bundles')
    learns = {k: settled(f(clips)) for k,f in made.items()}
    for i,learn in enumerate(learns.values()): save_bundle(learn, folder/str(i))
    return learns, [folder/str(i) for i in range(len(learns))]

opening = """import sys, torch
from pathlib import Path
import fastai_seq
from fastai_seq.deploy.bundle import load_bundle
clip, dest, *bundles = sys.argv[1:]
res = []
for b in bundles:
    learn = load_bundle(b)
    with learn.no_bar(), learn.no_logging(): said = learn.predict(Path(clip))
    res.append(([str(said[0]), *(torch.as_tensor(o) for o in said[1:])], type(said[0]).__name__))
torch.save(res, dest)"""

@pytest.mark.slow
def test_bundles_answer_in_a_fresh_process_without_the_data(saved, clip, tmp_path):
    learns, paths = saved
    alone = tmp_path/clip.name
    alone.write_bytes(clip.read_bytes())
    subprocess.run(
        [sys.executable, '-c', opening, str(alone), str(tmp_path / 'said.pt'), *map(str, paths)],
        check=True,
        cwd=tmp_path,
    )
    for (name,learn),(said,kind) in zip(learns.items(), torch.load(tmp_path/'said.pt', weights_only=True)):
        if 'digits' in name: continue       # its learner reads numbers of clips, not files
        expected = answer(learn, clip)
        assert (said[0], kind) == (str(expected[0]), type(expected[0]).__name__), name
        for a, b in zip(said[1:], expected[1:]):
            torch.testing.assert_close(
                torch.as_tensor(a).as_subclass(torch.Tensor),
                torch.as_tensor(b).as_subclass(torch.Tensor),
                rtol=0,
                atol=1e-5,
            )  # another process may use other threads

def test_opened_bundles_stream_and_continue(saved, clips, clip, tmp_path):
    learns, paths = saved
    frames, seen = frames_of(clip, 5), torch.rand(4,3,32,32)
    for (name,learn),path in zip(learns.items(), paths):
        again = load_bundle(path)
        if name != 'masks':
            a,b = (StreamPredictor(o, seq_len=4) for o in (learn, again))
            for x,y in [(a.push(f), b.push(f)) for f in frames]:
                if isinstance(x, StreamForecast):assert torch.equal(x.frames, y.frames), name
                elif x: assert x.label == y.label and x.probs == y.probs, name
        if hasattr(learn.model, 'n_out'):
            assert torch.equal(forecast_frames(learn, seen, 5), forecast_frames(again, seen, 5)), name
            assert (
                len({
                    continue_video(o, clip, tmp_path / f'{i}.avi').read_bytes()
                    for i, o in enumerate((learn, again))
                })
                == 1
            ), name

def test_the_card_tells_the_answer(saved):
    card = dict(zip(saved[0], ((p/'README.md').read_text() for p in saved[1])))
    for name, words in {
        'SimVP': '3 frames to come',
        'classes': 'Down, Left, Right, Up, for each frame',
        'numbers': '1 numbers, for each frame',
        'masks': 'none, mark, for each pixel',
        'ConvGRU, stride 2': 'stride=2',
    }.items():
        assert words in card[name]
    for name, call in dict(
        SimVP='continue_video(learn,',
        classes='label_frames(learn,',
        numbers='label_frames(learn,',
        masks='learn.predict(Path',
    ).items():
        assert call in card[name]

def test_a_head_of_ones_own_is_given_by_hand(clips, tmp_path):
    class Own(AvgHead): pass
    learn = settled(heads(Own, cnn)(clips))
    with pytest.raises(ValueError, match='head='): save_bundle(learn, tmp_path/'own', arch=cnn)
    again = load_bundle(save_bundle(learn, tmp_path/'own', arch=cnn, head=Own), arch=cnn, head=Own)
    assert type(again.model.head.head) is Own

def test_what_a_bundle_cannot_hold_is_named(clips, tmp_path):
    class Mine(ConvGRUForecaster): pass
    with pytest.raises(ValueError, match=r'Mine cannot be told.*ConvGRUForecaster, SimVP, TemporalUNet'):
        save_bundle(seq_learner(future(clips), Mine, hidden=[8]), tmp_path / 'mine')
    changed = settled(made['ConvGRU, stride 2'](clips))
    changed.model.n_out = 2
    with pytest.raises(ValueError, match='answers otherwise'): save_bundle(changed, tmp_path/'changed')
    assert not (tmp_path/'mine').exists() and not (tmp_path/'changed').exists()
    path = save_bundle(made['SimVP'](clips), tmp_path/'vp')
    told = json.loads((path/'bundle.json').read_text())
    told['clips']['sampler']['args']['sampler']['name'] = 'os.system'
    (path/'bundle.json').write_text(json.dumps(told | dict(digest=_digest(told))))
    with pytest.raises(ValueError, match='PartOf'): load_bundle(path)

# export

def run_onnx(path, frames):
    session = pytest.importorskip('onnxruntime').InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return [torch.from_numpy(o) for o in session.run(['answer', 'logits'], {'frames': frames.numpy()})]

exported = {k: made[k] for k in ('ConvGRU, stride 2', 'masks')} | {h: heads(h, cnn) for h in ('lstm', 'diff')}

@pytest.mark.parametrize('name', exported)
@pytest.mark.slow
def test_onnx_gives_the_numbers(clips, tmp_path, name):
    pytest.importorskip('onnxscript')
    learn = settled(exported[name](clips))
    told = export_onnx(learn, tmp_path/'m.onnx')
    assert told['difference'] < 1e-4 and told['any_length'] is (name != 'ConvGRU, stride 2')
    frames = torch.randint(0, 256, (3, 7 if told['any_length'] else 4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad(): out = learn.model(learn.dls.valid.after_batch(TensorVideo(frames))).as_subclass(torch.Tensor)
    act = getattr(learn.loss_func, 'activation', None) or learn.loss_func.decodes
    for a,b in zip(run_onnx(tmp_path/'m.onnx', frames), (act(out), out)): assert torch.allclose(a, b, atol=1e-4)

@pytest.mark.slow
def test_the_predictor_reads_and_gives_frames_but_no_label(clips, clip, tmp_path):
    pytest.importorskip('onnxscript')
    learn = settled(made['SimVP'](clips))
    assert export_onnx(learn, tmp_path/'m.onnx')['difference'] < 1e-4
    predict = OnnxPredictor(tmp_path/'m.onnx', threads=1)
    for path, frames in (
        (clip, frames_of(clip, 16)),
        (write_video(tmp_path / '5.avi', frames_of(clip, 5)), None),
    ):  # the second has no room for what comes
        frames = read_frames(path, range(5)) if frames is None else frames
        said = predict.preds(predict.read(path)[None])[0]
        assert said.shape == (3, 3, 32, 32) and np.allclose(
            said, forecast_frames(learn, torch.from_numpy(frames).permute(0, 3, 1, 2) / 255), atol=1e-4
        )
    with pytest.raises(ValueError, match='TensorVideoTfm.*preds'): predict(clip)
