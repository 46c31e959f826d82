"Inference: one path for clips, windows and streams; resuming; odd videos; state that is true; late frames; the shell."
import io, json, sys, tempfile, threading
from fractions import Fraction
from functools import partial
from pathlib import Path
from urllib.parse import quote

import av, matplotlib, numpy as np, pandas as pd, pytest, torch
from fastai.data.all import Transform
from fastai.layers import SimpleCNN
from fastai.learner import Learner, load_learner
from fastai.vision.augment import aug_transforms
from PIL import Image
from torchvision.models.video import r3d_18

from conftest import real
from fastai_seq.deploy import predict_timeline as room
from fastai_seq.core import TensorVideo
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.block import resize_batch
from fastai_seq.data.find import get_instances
from fastai_seq.judge.evaluate import evaluate_clips
from fastai_seq.video.extract import extract_dataset
from fastai_seq.deploy.predict import predict_video
from fastai_seq.deploy.windows import window_span, windows_of
from fastai_seq.train.learner import seq_learner
from fastai_seq.models.heads import LSTMHead
from fastai_seq.walkthrough import SimpleModel, get_action_dataloaders
from fastai_seq.video.sampling import EveryFrame, FirstFrames, RandomClip, SegmentFrames
from fastai_seq.deploy.stream import StreamPredictor
from fastai_seq.deploy.stream_memory import FeatureRing, RecurrentState
from fastai_seq.deploy.timeline import Timeline
from fastai_seq.deploy.predict_timeline import predict_timeline
from fastai_seq.models.timesformer import MyTimeSformer
from fastai_seq.video.clip import VideoRange
from fastai_seq.video.decode import OpenVideo
from fastai_seq.video.files import VideoError, write_video
from fastai_seq.video.read import n_frames, read_frames, video_info

matplotlib.use('agg')
tiny = partial(SimpleCNN, [3, 4, 8])
load = partial(ImageSeqDataLoaders.from_folder, seq_len=3, size=32, bs=4, seed=0, num_workers=0)
timeline = partial(predict_timeline, progress=False)

def learner(dls, arch=tiny, **kwargs):
    torch.manual_seed(0)
    return quiet(seq_learner(dls, arch, pretrained=False, **kwargs))

def quiet(learn):
    if hasattr(learn, 'progress'): learn.remove_cb(learn.progress)
    return learn

@pytest.fixture(scope='module')
def learn(clips): return learner(load(clips), head='lstm', hidden_size=8, pool_size=2)

def noise(n, h=40, w=48, seed=0):
    "Frames that differ, smooth enough for a codec"
    small = np.random.default_rng(seed).integers(0, 256, (n, h//8, w//8, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(f).resize((w, h), Image.BILINEAR)) for f in small]

@pytest.fixture(scope='module')
def long(tmp_path_factory): return write_video(tmp_path_factory.mktemp('long')/'long.avi', noise(53), fps=10)

def as_clips(learn, tl):
    "The reference: each window as a clip of its own"
    p,_ = learn.get_preds(dl=learn.dls.test_dl([VideoRange(tl.path, o.start, o.end) for o in tl.df.itertuples()], num_workers=0, bs=1))
    return p.reshape(len(p), -1).numpy()

def same(a, b, tol=1e-5): np.testing.assert_allclose(np.asarray(a, dtype=float), np.asarray(b, dtype=float), atol=tol)

# --- a clip ---

@pytest.mark.parametrize('n_clips', [1, 3])
def test_a_clip_is_answered_as_evaluated(learn, n_clips):
    for path in learn.dls.valid.items[:3]:
        a = predict_video(learn, path, n_clips)
        assert list(a.probs.values()) == evaluate_clips(learn, items=[path], n_clips=n_clips, n_boot=2).preds[0].tolist()
        assert list(a.probs) == list(learn.dls.vocab) and a.label == max(a.probs, key=a.probs.get) and a.confidence == a.probs[a.label]
        if n_clips == 1:
            cls, _, p = learn.predict(path)
            assert cls == a.label
            same(list(a.probs.values()), p, 1e-6)

def test_one_path_whatever_reads_the_clips(clips, tmp_path, learn):
    extract_dataset(clips, tmp_path/'frames', workers=0)
    tuples = quiet(Learner(get_action_dataloaders(get_instances(clips), bs=4, image_size=32, seq_len=3, num_workers=0), SimpleModel(tiny, n_out=2, pretrained=False)))
    learn.export(tmp_path/'m.pkl')
    for l in (tuples, learner(load(tmp_path/'frames')), quiet(load_learner(tmp_path/'m.pkl'))):
        path = get_instances(clips)[0] if not l.dls.valid.items else l.dls.valid.items[0]
        same(list(predict_video(l, path, 1).probs.values()), l.predict(path)[2], 1e-6)
    a = predict_video(learn, VideoRange(learn.dls.valid.items[0], 0, .2), 1)
    same(list(a.probs.values()), learn.predict(VideoRange(learn.dls.valid.items[0], 0, .2))[2], 1e-6)

def test_several_labels_and_numbers(clips, long):
    files = get_instances(clips)
    many = learner(ImageSeqDataLoaders.from_lists(clips, files, [['a', 'b'] if i % 2 else ['b'] for i in range(len(files))], seq_len=3, size=32, bs=4, num_workers=0, valid_pct=.3, seed=0))
    a = predict_video(many, files[0], 1, thresh=0.)
    assert a.label == ['a', 'b'] and predict_video(many, files[0], 1, thresh=1.1).label == []
    number = learner(ImageSeqDataLoaders.from_lists(clips, files, [i/7 for i in range(len(files))], seq_len=3, size=32, bs=4, num_workers=0, valid_pct=.3, seed=0))
    a = predict_video(number, files[0], 1)
    assert a.label == list(a.probs.values())
    same(a.label, number.predict(files[0])[2].reshape(-1), 1e-6)
    for l in (many, number):
        tl = timeline(l, long)
        same(tl.values, as_clips(l, tl))
        tl.plot()
        assert isinstance(tl.text(0), str)
    assert set(timeline(many, long, thresh=0.).segments().label) == {'a;b'}
    with pytest.raises(ValueError, match='make no segments'): tl.segments()

def test_the_threshold_of_the_loss_is_the_threshold(clips):
    files = get_instances(clips)
    many = learner(ImageSeqDataLoaders.from_lists(clips, files, [['a', 'b'] if i % 2 else ['b'] for i in range(len(files))], seq_len=3, size=32, bs=4, num_workers=0, valid_pct=.3, seed=0))
    p = sorted(many.predict(files[0])[2].tolist())
    for thresh in (p[0]/2, sum(p)/2, 2*p[1]):
        many.loss_func.thresh = thresh
        said = list(many.predict(files[0])[0])
        assert predict_video(many, files[0], 1).label == said
        assert evaluate_clips(many, items=files[:1], labels=[['b']], n_clips=1, n_boot=10).thresh == thresh

def test_another_vocabulary_is_named(learn):
    other = learner(learn.dls, n_out=3)
    with pytest.raises(ValueError, match='3 numbers, the learner has 2 classes'): predict_video(other, learn.dls.valid.items[0])
    with pytest.raises(FileNotFoundError): predict_video(learn, 'nowhere.avi')

# --- windows ---

kinds = dict(uniform={}, segments=dict(sampler=SegmentFrames), dense=dict(sampler=RandomClip(3, stride=2)), rate=dict(seq_len=4, sampler=FirstFrames(4, fps=6)), every=dict(sampler=EveryFrame()),
             wide=dict(size=(16, 40)), squish=dict(size=(24, 40), method='squish'), augmented=dict(batch_tfms=aug_transforms(size=24)), workers=dict(num_workers=2))

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.slow
def test_a_window_is_the_clip_it_would_be(clips, long, kind):
    l = learner(load(clips, **kinds[kind]), head='lstm', hidden_size=8, pool_size=2)
    for window, stride in ((2, .5), (1.05, .33), (.7, 1.5)):
        tl = timeline(l, long, window, stride)
        same(tl.values, as_clips(l, tl))
        assert len(np.unique(tl.values.round(6))) > 2

@pytest.mark.parametrize('head', ['mean', 'attention', 'convgru', 'transformer', 'shift', 'diff'])
@pytest.mark.slow
def test_a_window_is_the_clip_it_would_be_for_each_head(clips, long, head):
    arch = tiny if head != 'shift' else 'resnet10t'
    if head == 'shift': pytest.importorskip('timm')
    l = learner(load(clips, seq_len=4, sampler=FirstFrames(4)), arch, head=head)
    tl = timeline(l, long, 1, .2)
    same(tl.values, as_clips(l, tl))

def test_folders_of_frames_and_image_tuples(clips, long, learn, tmp_path):
    folder = extract_dataset(long.parent, tmp_path, workers=0) and next(p for p in tmp_path.rglob('long') if p.is_dir())
    tl = timeline(learn, folder)
    same(tl.values, as_clips(learn, tl))
    tuples = quiet(Learner(get_action_dataloaders(get_instances(clips), bs=4, image_size=32, seq_len=3, num_workers=0), SimpleModel(tiny, n_out=2, pretrained=False)))
    for path in (long, folder):
        tl = timeline(tuples, path)
        same(tl.values, as_clips(tuples, tl))

def test_all_windows_are_there():
    "Against a plain enumeration: those that fit, and the rest if it is half a window at least"
    for n in (1, 7, 30, 31):
        for rate in (5, 29.97):
            for window, stride in ((1, .5), (1, .1), (.5, 2), (2, 2), (1.3, .7)):
                got = list(windows_of([lambda i=i: i for i in range(n)], window, stride, rate, range))
                k = 0
                for k in range(10**6):
                    s, e, a, b = window_span(k, window, stride, rate)
                    if b > n: break
                    assert got[k] == (k, s, e, list(range(a, b)), list(range(a, b)))
                rest = got[k:]
                assert len(rest) <= 1 and (k == 0 or window_span(k-1, window, stride, rate)[3] == n or bool(rest) == (2*(n-a) >= b-a))
                if rest: assert rest[0][3:] == (list(range(a, n)), None)

def test_the_video_is_decoded_once_and_little_is_kept(learn, long, monkeypatch):
    read, alive, most = [], set(), [0]
    class Frame:
        def __init__(self, i):
            alive.add(i)
            most[0] = max(most[0], len(alive))
            self.i = i
        def __del__(self): alive.discard(self.i)
    for _ in windows_of((partial(Frame, i) for i in range(500)), 1, .5, 10, range): pass
    assert most[0] <= 16         # a window, and what came since the last answer
    true = OpenVideo.frames
    def counted(self, *a):
        for f in true(self, *a):
            read.append(f.pts)
            yield f
    n_frames(long)               # now it is known where its key frames are
    monkeypatch.setattr(OpenVideo, 'frames', counted)
    timeline(learn, long)
    assert len(read) == 53 + 1          # all, and the first for its facts; those of the last window are found by a key frame

def test_the_encoder_sees_each_frame_of_a_batch_once(clips, long):
    l, n = learner(load(clips, seq_len=10, sampler=FirstFrames(10)), head='attention'), []
    l.model.encoder.register_forward_hook(lambda m, i, o: n.append(len(o)))
    tl = timeline(l, long, 1, .2, bs=64)
    assert sum(n) == 53 and len(tl.df)*10 > 4*53      # where asked about one by one, it would see that many
    model = l.model
    with pytest.raises(ZeroDivisionError): timeline(l, long, 1, .2, act=lambda x: 1/0)
    assert l.model is model

class Fade(Transform):
    "Darker and darker from the first frame of a clip to its last"
    order = 100
    def encodes(self, x:TensorVideo): return x*torch.linspace(1, 0, x.shape[1])[:, None, None, None]

def test_frames_that_differ_from_window_to_window_are_not_shared(clips, long):
    l = learner(load(clips, seq_len=10, sampler=FirstFrames(10), batch_tfms=Fade()), head='attention')
    tl = timeline(l, long, 1, .2)
    same(tl.values, as_clips(l, tl))

# --- odd videos ---

@pytest.mark.parametrize('name', ['nasa_13013_rotated.mp4', 'test_non_zero_start.mp4', 'testsrc2_vp8.webm', 'h265_10bits.mp4', 'testsrc2_odd_height_and_width_mpeg2.mp4', 'discard_first_keyframe.mp4'])
@pytest.mark.slow
def test_odd_videos(learn, name, tmp_path):
    path = real('odd', name)
    tl = timeline(learn, path, .5, .25)
    same(tl.values, as_clips(learn, tl))
    info = video_info(tl.to_video(tmp_path/'o.mp4'), count=True)
    assert info.counted == tl.frames and abs(info.width/info.height - video_info(path).width/video_info(path).height) < .05

def test_sound_only_broken_and_missing(learn, tmp_path, long):
    with pytest.raises(VideoError, match='no video stream'): timeline(learn, real('odd', 'sine_mono_s16.wav'))
    with pytest.raises(FileNotFoundError): timeline(learn, tmp_path/'none.avi')
    cut = tmp_path/'cut.avi'
    cut.write_bytes(long.read_bytes()[:long.stat().st_size*2//3])
    with pytest.raises(VideoError, match='not whole'): timeline(learn, cut, .5, .25)
    whole, kept = timeline(learn, long, .5, .25), timeline(learn, cut, .5, .25, on_error='keep')
    m = len(kept.df) - 1
    assert 1 < m < len(whole.df)
    same(kept.values[:m], whole.values[:m])

def test_shorter_than_a_window_and_bad_arguments(learn, tmp_path, long):
    short = write_video(tmp_path/'s.avi', noise(4), fps=10)
    tl = timeline(learn, short)
    assert tl.df[['start', 'end']].values.tolist() == [[0, .4]]
    same(tl.values, learn.predict(short)[2][None])
    assert tl.segments().end.tolist() == [.4]
    with pytest.raises(ValueError, match='seconds above 0'): timeline(learn, long, 2, 0)
    with pytest.raises(ValueError, match='a frame at least'): timeline(learn, long, .01)
    with pytest.raises(ValueError, match='whole video'): timeline(learn, VideoRange(long, 0, 1))
    with pytest.warns(UserWarning, match='takes 31 frames, a window of 2.0 s has 20'): timeline(learn, long, sampler=RandomClip(4, stride=10))
    with pytest.raises(VideoError, match='a window of 20 frames: .*fewer than the 31'): timeline(learn, long, sampler=RandomClip(4, 'error', stride=10))

def vfr(path, stamps):
    "A video whose frames have the time `stamps` in milliseconds"
    with av.open(str(path), 'w') as out:
        s = out.add_stream('libvpx', rate=10)
        s.width, s.height, s.pix_fmt, s.time_base = 48, 40, 'yuv420p', Fraction(1, 1000)
        s.codec_context.time_base = s.time_base
        for t, f in zip(stamps, noise(len(stamps))):
            f = av.VideoFrame.from_ndarray(f, format='rgb24')
            f.pts = t
            f.time_base = s.time_base
            out.mux(s.encode(f))
        out.mux(s.encode())
    return path

def test_gaps_in_time_stamps_are_told(learn, tmp_path, recwarn):
    even = vfr(tmp_path/'even.mkv', [100*i for i in range(30)])
    timeline(learn, even)
    assert not [w for w in recwarn if 'gaps' in str(w.message)]
    gap = vfr(tmp_path/'gap.mkv', [100*i + 5000*(i >= 15) for i in range(30)])
    with pytest.warns(UserWarning, match='time stamps have gaps.*constant rate'): tl = timeline(learn, gap)
    same(tl.values, as_clips(learn, tl))

# --- an interrupted run ---

def test_killed_equals_unkilled(learn, long, tmp_path):
    ask = partial(timeline, learn, long, 1, .2, bs=4)
    whole = ask(save=tmp_path/'a.jsonl')
    data = (tmp_path/'a.jsonl').read_bytes()
    assert whole.df.equals(ask().df)
    for n in [0, 5, data.index(b'\n'), data.index(b'\n')+1, *range(len(data)//7, len(data), len(data)//7), len(data)-1, len(data)]:
        (tmp_path/'b.jsonl').write_bytes(data[:n])
        tl = ask(save=tmp_path/'b.jsonl')
        assert (tmp_path/'b.jsonl').read_bytes() == data and tl.df.equals(whole.df) and tl.frames == whole.frames

def test_what_is_kept_is_not_asked_again(learn, long, tmp_path, monkeypatch):
    calls, true = [], room._window_preds
    def some(learn, looks, *a):
        if len(calls) == 2: raise KeyboardInterrupt
        calls.append(len(looks))
        return true(learn, looks, *a)
    monkeypatch.setattr(room, '_window_preds', some)
    ask = partial(timeline, learn, long, 1, .2, bs=4, save=tmp_path/'a.jsonl')
    with pytest.raises(KeyboardInterrupt): ask()
    monkeypatch.setattr(room, '_window_preds', lambda l, looks, *a: calls.append(len(looks)) or true(l, looks, *a))
    tl = ask()
    assert sum(calls) == len(tl.df)
    n = len(calls)
    assert ask().df.equals(tl.df) and len(calls) == n
    lines = (tmp_path/'a.jsonl').read_bytes().splitlines(True)
    (tmp_path/'a.jsonl').write_bytes(b''.join(lines[:1+6]))      # cut within the second batch, which is asked about again whole
    ask()
    assert calls[n:] == calls[1:n]

def test_answers_to_something_else_are_not_taken(learn, clips, long, tmp_path):
    timeline(learn, long, save=tmp_path/'a.jsonl')
    with pytest.raises(ValueError, match='window: 2.0, not 1'): timeline(learn, long, 1, save=tmp_path/'a.jsonl')
    with pytest.raises(ValueError, match='model'): timeline(learner(learn.dls, head='gru'), long, save=tmp_path/'a.jsonl')
    (tmp_path/'mine.txt').write_text('dear diary\n')
    with pytest.raises(ValueError, match='other answers'): timeline(learn, long, save=tmp_path/'mine.txt')
    assert (tmp_path/'mine.txt').read_text() == 'dear diary\n'

# --- what comes out ---

def made(labels, path=Path('x.avi'), window=2., stride=.5, fps=10):
    p = {'A': .9, 'B': .1, '<b>': 0.}
    rows = [[i*stride, i*stride+window, [p['A'] if n == l else p['B'] if l in 'AB' and n in 'AB' else p['<b>'] for n in 'AB']] for i,l in enumerate(labels)]
    df = pd.DataFrame([dict(start=s, end=e, label=l, p_A=a, p_B=b) for (s, e, (a, b)), l in zip(rows, labels)])
    return Timeline(path, df, False, fps, int(rows[-1][1]*fps))

def test_segments_tile_the_video():
    rng = np.random.default_rng(0)
    for n in (1, 2, 17):
        for window, stride in ((2, .5), (1, 1), (3, .1)):
            labels = ['AB'[i] for i in rng.integers(0, 2, n)]
            tl = made(labels, window=window, stride=stride)
            s = tl.segments()
            assert s.start[0] == 0 and s.end.iloc[-1] == tl.seconds and np.allclose(s.start[1:], s.end[:-1]) and (s.label[1:].values != s.label[:-1].values).all()
            for t in np.linspace(.001, tl.seconds-.001, 50):
                assert s.label[(s.start <= t) & (t <= s.end)].iloc[0] in (tl.df.label[tl.at(t)],) or np.isclose(tl.bounds(), t).any()
    apart = made('AAB', window=1, stride=3)
    assert apart.segments()[['start', 'end']].values.tolist() == [[0, 1], [3, 4], [6, 7]] and apart.at(2) is None and apart.at(3.5) == 1
    assert len(apart.segments(thresh=.95)) == 0

def test_page_and_video(learn, long, tmp_path):
    tl = timeline(learn, long)
    page = tl.to_html(tmp_path/'p.html').read_text()
    assert page.count('data:video/mp4;base64,') == 1 and page.count('<tr data-t') == len(tl.segments()) and 'http' not in page
    tl.to_html(tmp_path/'q.html', max_bytes=10)
    assert 'src="q.labelled.mp4"' in (tmp_path/'q.html').read_text() and n_frames(tmp_path/'q.labelled.mp4') == 53
    plain, said = (read_frames(p, [10])[0].astype(int) for p in (long, tl.to_video(tmp_path/'v.mp4')))
    assert np.abs(plain - said)[20:].mean() < 10 < np.abs(plain - said)[:8, :20].mean()        # the label is at the head, nothing else changed
    assert video_info(tmp_path/'v.mp4').codec in ('h264', 'mpeg4') and tl.plot() is not None
    assert max(video_info(tl.to_video(tmp_path/'w.avi', px=24)).width, 0) == 24

# --- streams ---

heads = dict(lstm=RecurrentState, gru=RecurrentState, convlstm=RecurrentState, convgru=RecurrentState, mean=FeatureRing, avg=FeatureRing, max=FeatureRing,
             attention=FeatureRing, transformer=FeatureRing, diff=FeatureRing)

def offline(learn, frames):
    "The model's answer to `frames` as a clip in a folder, by the loader"
    with tempfile.TemporaryDirectory() as d:
        for i, f in enumerate(frames): Image.fromarray(f).save(f'{d}/{i}.png')
        tfm = learn.dls.valid.dataset.tls[0].tfms.fs[-1]
        old, tfm.sampler = tfm.sampler, EveryFrame()
        try: return learn.predict(Path(d))[2].numpy()
        finally: tfm.sampler = old

@pytest.mark.parametrize('head', heads)
@pytest.mark.slow
def test_a_stream_is_the_clip_it_would_be(clips, head):
    kwargs = dict(hidden_size=8, num_rnn_layers=2) if head in ('lstm', 'gru') else {}
    l = learner(load(clips, seq_len=4), head=head, **kwargs)
    s, frames, n = StreamPredictor(l), noise(9), []
    assert type(s.memory) is heads[head]
    l.model.encoder.register_forward_hook(lambda m, i, o: n.append(len(o)))
    got = [s.push(f) for f in frames]
    assert n == [1]*9                                            # each frame once
    for i, a in enumerate(got, 1):
        if heads[head] is RecurrentState: same(list(a.probs.values()), offline(l, frames[:i]))
        elif i < 4: assert a is None
        else: same(list(a.probs.values()), offline(l, frames[i-4:i]))
    s.reset()
    again = [s.push(f) for f in frames]
    assert [a and a.probs for a in again] == [a and a.probs for a in got]

def size_of(o): return sum(map(size_of, o)) if isinstance(o, tuple) else o.numel()

def test_the_state_does_not_grow(clips):
    for head in ('gru', 'convlstm'):
        s, sizes = StreamPredictor(learner(load(clips), head=head, hidden_size=8)), []
        for f in noise(20):
            s.push(f)
            sizes.append(size_of(s.memory.state))
        assert len(set(sizes)) == 1

class Backwards(LSTMHead):
    "Somebody's own way through a clip"
    def steps(self, x, lengths=None): return super().steps(x.flip(1), lengths)

@pytest.mark.parametrize('kind', ['bidirectional', 'own', 'shift', 'video', 'timesformer', 'tuples'])
@pytest.mark.slow
def test_networks_without_a_state(clips, kind):
    dls = load(clips, seq_len=4)
    if kind == 'bidirectional': l = learner(dls, head='lstm', bidirectional=True, hidden_size=8)
    elif kind == 'own': l = learner(dls, head=Backwards, hidden_size=8)
    elif kind == 'shift': pytest.importorskip('timm'); l = learner(dls, 'resnet10t', head='shift')
    elif kind == 'video': l = learner(dls, r3d_18)
    elif kind == 'timesformer': l = quiet(Learner(dls, MyTimeSformer(num_classes=2, num_frames=4, image_size=32, dim=16, depth=1, heads=2, dim_head=8)))
    else: l = quiet(Learner(get_action_dataloaders(get_instances(clips), bs=4, image_size=32, seq_len=4, num_workers=0), SimpleModel(tiny, n_out=2, pretrained=False)))
    s, frames = StreamPredictor(l), noise(6)
    got = [s.push(f) for f in frames]
    assert [a is None for a in got] == [True]*3 + [False]*3
    if kind == 'tuples': return same(list(got[3].probs.values()), predict_tuple(l, frames[:4]))
    for i in (4, 6): same(list(got[i-1].probs.values()), offline(l, frames[i-4:i]))

def predict_tuple(learn, frames):
    with tempfile.TemporaryDirectory() as d:
        for i, f in enumerate(frames): Image.fromarray(f).save(f'{d}/{i}.png')
        return learn.predict(Path(d))[2].numpy()

def test_a_file_is_streamed_as_it_is_read(learn, long):
    *_, last = StreamPredictor(learn).run(long)
    same(list(last.probs.values()), learn_on(learn, long))
    assert last.frame == 52 and last.time == pytest.approx(5.2) and last.delay > 0

def learn_on(learn, path):
    tfm = learn.dls.valid.dataset.tls[0].tfms.fs[-1]
    old, tfm.sampler = tfm.sampler, EveryFrame()
    try: return learn.predict(path)[2].numpy()
    finally: tfm.sampler = old

def test_kinds_of_frames_and_sizes_that_change(learn):
    f = noise(3)
    a, b = StreamPredictor(learn), StreamPredictor(learn)
    for o in f: x, y = a.push(o), b.push(Image.fromarray(o))
    assert x.probs == y.probs
    s = StreamPredictor(learn)
    several = [f[0], noise(1, 80, 64)[0], noise(1, 24, 100)[0]]
    for o in several: x = s.push(o)
    same(list(x.probs.values()), offline(learn, [resize_batch([o], (32, 32), 'crop')[0] for o in several]))
    for bad, e in (('frame', TypeError), (np.zeros((4, 4)), ValueError), (np.zeros((4, 4, 3)), ValueError), (torch.zeros(3, 4, 4), TypeError)):
        with pytest.raises(e, match='uint8'): s.push(bad)

def test_rate_stride_every_smooth_thresh(learn, clips):
    f = noise(12)
    s = StreamPredictor(learn, fps=5)
    due = [s.push(o, time=i/20) is not None for i, o in enumerate(f)]
    assert due == [i % 4 == 0 for i in range(12)]
    assert s.push(f[0], time=0.) is not None                     # the clock was set back
    dense = learner(load(clips, sampler=RandomClip(3, stride=2)), head='gru', hidden_size=8)
    s = StreamPredictor(dense)
    assert [s.push(o) is not None for o in f] == [True, False]*6
    s = StreamPredictor(learn, every=3)
    assert [s.push(o) is not None for o in f] == [False, False, True]*4
    raw, smooth = ([list(s.push(o).probs.values()) for o in f] for s in (StreamPredictor(learn), StreamPredictor(learn, smooth=.7)))
    want = raw[0]
    for r, got in zip(raw[1:], smooth[1:]):
        want = .7*np.array(want) + .3*np.array(r)
        same(got, want, 1e-6)
    assert StreamPredictor(learn, thresh=.99).push(f[0]).label is None
    for kwargs in (dict(smooth=1), dict(every=0)):
        with pytest.raises(ValueError): StreamPredictor(learn, **kwargs)
    with pytest.raises(ValueError, match='seq_len='): StreamPredictor(learner(load(clips, sampler=EveryFrame()), head='avg'))

def test_training_goes_on_as_before(learn):
    learn.model.train()
    StreamPredictor(learn).push(noise(1)[0])
    assert learn.model.training
    learn.model.eval()

def test_late_frames_drop_the_oldest(learn):
    f, gate, sent = noise(10), threading.Event(), threading.Event()
    def camera():
        yield f[0]
        gate.wait(10)
        yield from f[1:]
        sent.set()
    s = StreamPredictor(learn)
    run = s.run(camera(), live=True, waiting=3)
    first = next(run)
    gate.set()
    sent.wait(10)                                    # nine frames come while the answer is being looked at
    rest = list(run)
    assert len(rest) == 3 and s.dropped == 6 and s.report()['dropped'] == 6
    want = StreamPredictor(learn)
    for o in (f[0], *f[-3:]): a = want.push(o)
    assert rest[-1].probs == a.probs and max(r.delay for r in rest) > 0
    assert len(list(StreamPredictor(learn).run(f))) == 10        # not live: every frame

def test_a_stream_that_stalls_breaks_or_is_not_there(learn, tmp_path, long):
    hold = threading.Event()
    def stalls():
        yield noise(1)[0]
        hold.wait(20)
    got = []
    with pytest.raises(VideoError, match='no frame came for 0.2 s'):
        for a in StreamPredictor(learn).run(stalls(), live=True, timeout=.2): got.append(a)
    hold.set()
    assert len(got) == 1
    def breaks():
        yield noise(1)[0]
        raise VideoError('cable pulled')
    with pytest.raises(VideoError, match='cable'): list(StreamPredictor(learn).run(breaks(), live=True))
    with pytest.raises(FileNotFoundError, match='v4l2'): next(StreamPredictor(learn).run('/dev/nothing'))
    with pytest.raises(VideoError, match='cannot be opened as a stream'): next(StreamPredictor(learn).run('http://127.0.0.1:9/x'))
    with pytest.raises(TypeError, match='iterable'): next(StreamPredictor(learn).run(5))
    answers = list(StreamPredictor(learn).run(f'file://{long}', live=False))      # an address
    assert len(answers) == 53
    assert list(StreamPredictor(learn).run([])) == []

def test_report(learn):
    s = StreamPredictor(learn, every=2)
    assert s.report()['answers'] == 0
    for f in noise(6): s.push(f)
    r = s.report()
    assert (r['seen'], r['looked'], r['answers']) == (6, 6, 3) and 0 < r['delay_ms'] <= r['worst_ms'] and r['fps'] > 0

# --- the shell ---

@pytest.fixture(scope='module')
def model(learn, tmp_path_factory):
    learn.path, old = tmp_path_factory.mktemp('model'), learn.path
    learn.export('m.pkl')
    path, learn.path = learn.path/'m.pkl', old
    return path

@pytest.fixture()
def shell(model, capfd):
    from fastai_seq.cli import main
    def run(*args):
        capfd.readouterr()
        rc = main([str(o) for o in args])
        return rc, *capfd.readouterr()
    return run

def test_predict_goes_on_past_broken_files(learn, model, shell, tmp_path):
    junk, good = tmp_path/'junk.avi', learn.dls.valid.items[:2]
    junk.write_text('not a video')
    rc, out, err = shell('predict', model, good[0], junk, good[1])
    assert rc == 1 and len(out.splitlines()) == 2
    assert err.splitlines()[-2].startswith(f'failed: {junk} cannot be opened') and err.splitlines()[-1] == '1 of 3 clips could not be predicted'
    for line, f in zip(out.splitlines(), good):
        a = predict_video(learn, f, 1)
        assert line == f'{f}\t{a.label}\t{a.confidence:.3f}'
    assert shell('predict', model, *good)[0] == 0
    told = [json.loads(l) for l in shell('predict', model, good[0], junk, '--json')[1].splitlines()]
    assert [o['file'] for o in told] == [str(good[0]), str(junk)] and 'label' in told[0] and 'cannot be opened' in told[1]['error']

@pytest.mark.slow
def test_predict_speaks_json_csv_and_html(learn, model, shell, long, tmp_path):
    files = learn.dls.valid.items[:2]
    rows = [json.loads(l) for l in shell('predict', model, *files, '--json')[1].splitlines()]
    assert [r['file'] for r in rows] == [str(f) for f in files] and rows[0]['probs'] == predict_video(learn, files[0], 1).probs
    df = pd.read_csv(io.StringIO(shell('predict', model, *files, '--csv')[1]))
    assert list(df) == ['file', 'label', *(f'p_{c}' for c in learn.dls.vocab)] and len(df) == 2
    same(df.iloc[:, 2:], [list(r['probs'].values()) for r in rows])
    tl = timeline(learn, long)
    t = json.loads(shell('predict', model, long, '--timeline', '--json')[1])
    assert len(t['windows']) == len(tl.df) and len(t['segments']) == len(tl.segments()) and t['seconds'] == tl.seconds
    df = pd.read_csv(io.StringIO(shell('predict', model, long, long, '--timeline', '--csv')[1]))
    same(df.iloc[:len(tl.df), 4:], tl.values)
    assert len(df) == 2*len(tl.df)
    lines = shell('predict', model, long, '--timeline')[1].splitlines()
    assert [l.split('\t')[3] for l in lines] == tl.segments().label.tolist()
    rc, out, _ = shell('predict', model, long, '--timeline', '--html', '--out', tmp_path)
    assert rc == 0 and Path(out.strip()) == tmp_path/'long.avi.html' and 'data:video' in Path(out.strip()).read_text()
    for bad in (['--json', '--csv'], ['--window', '0'], ['--html', '--timeline']):
        rc, _, err = shell('predict', model, long, *[long]*(len(bad) == 2), *bad)
        assert rc == 2 and err.splitlines()[-1].startswith('fastai-seq: error: ')
    rc, out, _ = shell('predict', model, long, '--timeline', '--json', '--thresh', '.999')
    assert json.loads(out)['segments'] == []
    best = tl.values.max(1)
    between = str((best.min() + best.max())/2)                 # some windows have a label, some have none
    rc, out, _ = shell('predict', model, long, '--timeline', '--json', '--thresh', between)
    said = [w['label'] for w in json.loads(out, parse_constant=pytest.fail)['windows']]
    assert rc == 0 and None in said and any(said)
    assert shell('predict', model, long, '--html', '--thresh', between, '--out', tmp_path)[0] == 0

def test_a_page_finds_the_video_beside_it(learn, long, tmp_path):
    page = timeline(learn, long).to_html(tmp_path/'50% #1?.html', max_bytes=0)
    assert f"src=\"{quote('50% #1?.labelled.mp4')}\"" in page.read_text() and (tmp_path/'50% #1?.labelled.mp4').exists()

def test_serve_without_gradio_says_so(model, shell, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    rc, _, err = shell('serve', model)
    assert rc == 2 and "pip install 'fastai_seq[demo]'" in err
