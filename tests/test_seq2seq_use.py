"Forecasters, answers for every frame and masks in use: a stream says what the whole clip says, bundles and exported models answer as their learner did."
import json, subprocess, sys
from functools import partial

import numpy as np, pytest, torch
from fastai.data.all import DataBlock, RandomSplitter
from fastai.layers import SimpleCNN
from torch import nn
from torchvision.models import mobilenet_v3_small, squeezenet1_1

from fastai_seq.bundle import _digest, load_bundle, save_bundle
from fastai_seq.core import TensorVideo
from fastai_seq.data import ImageSeqBlock
from fastai_seq.digits import changing_clips, frame_labels
from fastai_seq.export import export_onnx
from fastai_seq.inference import StreamForecast, StreamPredictor, _FeatureRing, _FrameRing, _State, predict_video
from fastai_seq.models import AvgHead, _heads
from fastai_seq.runtime import OnnxPredictor
from fastai_seq.seq2seq import ConvGRUForecaster, ConvLSTMForecaster, SimVP, TemporalUNet
from fastai_seq.seq2seq_learner import continue_video, forecast, seq2seq_learner
from fastai_seq.targets import FrameCategoryBlock, FrameMaskBlock, FrameRegressionBlock, FutureDataLoaders
from fastai_seq.video import get_videos, n_frames, read_frames

@pytest.fixture(scope='module')
def clips(tmp_path_factory): return changing_clips(tmp_path_factory.mktemp('changing')/'clips', n_groups=4, clips_per_group=2, n_frames=16, size=(40,48))

@pytest.fixture(scope='module')
def clip(clips): return get_videos(clips)[0]

cnn = partial(SimpleCNN, [3,4,8])
rates = lambda path: np.linspace(0, 1, n_frames(path))
marks = lambda path: np.zeros((n_frames(path), 40, 48), np.uint8)

def framewise(path, block=FrameCategoryBlock, get_y=frame_labels):
    return DataBlock((ImageSeqBlock(4, 32), block), get_items=get_videos, get_y=get_y, splitter=RandomSplitter(seed=0)).dataloaders(path, bs=2, num_workers=0)
def future(path, **kwargs): return FutureDataLoaders.from_folder(path, n_in=4, n_out=3, size=32, bs=2, seed=0, num_workers=0, **kwargs)
def digits(path): return FutureDataLoaders.from_digits(4, 3, size=32, digit_size=14, n_train=4, n_valid=2, bs=2, num_workers=0)

def heads(head, net=squeezenet1_1): return lambda path: seq2seq_learner(framewise(path), net, head=head, pretrained=False)
small_vp = dict(hid_s=4, hid_t=16, n_s=2, n_t=2, kernels=(3,), groups=2)
made = {
    'ConvLSTM': lambda path: seq2seq_learner(future(path), ConvLSTMForecaster, hidden=(8,8)),
    'ConvGRU, stride 2': lambda path: seq2seq_learner(future(path, stride=2), ConvGRUForecaster, hidden=(8,)),
    'ConvGRU, digits': lambda path: seq2seq_learner(digits(path), ConvGRUForecaster, hidden=(8,)),
    'SimVP': lambda path: seq2seq_learner(future(path), SimVP, **small_vp),
    'classes': heads('lstm'),
    'numbers': lambda path: seq2seq_learner(framewise(path, FrameRegressionBlock, rates), squeezenet1_1, head='transformer', pretrained=False, dim=16),
    'masks': lambda path: seq2seq_learner(framewise(path, FrameMaskBlock(['none', 'mark']), marks), TemporalUNet, widths=(8,16))}

def settled(learn):
    "With running statistics that are not those of the start"
    for m in learn.model.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)): m.running_mean.normal_(); m.running_var.uniform_(.5, 2)
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

sees = dict.fromkeys(('lstm', 'gru', 'convlstm', 'convgru'), _State) | dict.fromkeys(('mean', 'avg', 'max', 'attention', 'diff', 'transformer'), _FeatureRing) | dict(shift=_FrameRing)

@pytest.mark.parametrize('head', _heads)
def test_each_frame_is_answered_as_offline(clips, clip, head):
    "What does not look ahead as in the whole video; what does, as in the clip that ends at the frame"
    learn = settled(heads(head, mobilenet_v3_small if head == 'shift' else cnn)(clips))
    stream, frames = StreamPredictor(learn, seq_len=5), frames_of(clip)
    assert type(stream.memory) is sees[head]
    said, p = [stream.push(f) for f in frames], whole(learn, frames).softmax(-1)
    assert [a.frame for a in said] == list(range(12)) and all(a.label == learn.dls.vocab[max(range(4), key=list(a.probs.values()).__getitem__)] for a in said)
    got = torch.tensor([list(a.probs.values()) for a in said])
    if head in ('transformer', 'shift'): p = torch.stack([whole(learn, frames[max(0, t-4):t+1]).softmax(-1)[-1] for t in range(12)])
    assert torch.allclose(got, p, atol=1e-5)

def test_the_state_of_each_frame_stays_small_and_begins_anew(clips, clip):
    learn = settled(heads('gru', cnn)(clips))
    stream, frames = StreamPredictor(learn, every=3, stride=1), frames_of(clip)
    a = [stream.push(f) for f in frames]
    assert [o is not None for o in a] == [False, False, True]*4 and stream.memory.state.numel() == 512
    stream.reset()
    assert [stream.push(f) for f in frames[:3]][2].probs == a[2].probs

def test_both_ways_is_a_ring(clips, clip):
    learn = settled(seq2seq_learner(framewise(clips), cnn, head='lstm', pretrained=False, bidirectional=True, hidden_size=8))
    stream, frames = StreamPredictor(learn), frames_of(clip)
    said = [stream.push(f) for f in frames]
    assert type(stream.memory) is _FeatureRing and np.allclose(list(said[7].probs.values()), whole(learn, frames[4:8]).softmax(-1)[-1], atol=1e-5)

def test_numbers_of_each_frame(clips, clip):
    learn = settled(made['numbers'](clips))
    stream, frames = StreamPredictor(learn), frames_of(clip, 3)
    said = [stream.push(f) for f in frames]
    assert np.allclose([a.label for a in said], [whole(learn, frames[:t+1])[-1].tolist() for t in range(3)], atol=1e-5)

@pytest.mark.parametrize('kind', ['ConvLSTM', 'ConvGRU, digits'])
def test_forecasts_from_the_state_are_those_of_all_frames(clips, clip, kind):
    learn = settled(made[kind](clips))
    stream, frames = StreamPredictor(learn), frames_of(clip)
    for t,f in enumerate(frames):
        a = stream.push(f, time=t/8)
        assert isinstance(a, StreamForecast) and (a.frame, a.time) == (t, t/8) and a.frames.shape == (3,3,32,32)
        assert torch.allclose(a.frames, whole(learn, frames[:t+1]).clamp(0, 1), atol=1e-5)
    assert [s[0].shape for s in stream.memory.state][0] == (1,8,8,8)

def test_simvp_forecasts_from_the_last_frames(clips, clip):
    learn = settled(made['SimVP'](clips))
    stream, frames = StreamPredictor(learn), frames_of(clip)
    said = [stream.push(f) for f in frames]
    assert said[:3] == [None]*3 and type(stream.memory) is _FrameRing
    for t in range(3, 12): assert torch.allclose(said[t].frames, forecast(learn, torch.from_numpy(np.stack(frames[:t+1])).permute(0,3,1,2)/255), atol=1e-5)

def test_a_stream_takes_the_stride_of_training(clips, clip):
    learn = settled(made['ConvGRU, stride 2'](clips))
    said = list(StreamPredictor(learn).run(clip))
    assert [a.frame for a in said] == list(range(0, 16, 2))

def test_what_a_stream_cannot_say_is_named(clips, clip):
    with pytest.raises(ValueError, match='masks'): StreamPredictor(made['masks'](clips))
    with pytest.raises(ValueError, match='smooth=0.5'): StreamPredictor(made['ConvLSTM'](clips), smooth=.5)
    with pytest.raises(ValueError, match='neither classes nor numbers'): predict_video(made['classes'](clips), clip)
    stream = StreamPredictor(made['SimVP'](clips), seq_len=3)
    with pytest.raises(ValueError, match='made for 4 frames'): [stream.push(f) for f in frames_of(clip)]

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
from fastai_seq.bundle import load_bundle
clip, dest, *bundles = sys.argv[1:]
res = []
for b in bundles:
    learn = load_bundle(b)
    with learn.no_bar(), learn.no_logging(): said = learn.predict(Path(clip))
    res.append(([str(said[0]), *(torch.as_tensor(o) for o in said[1:])], type(said[0]).__name__))
torch.save(res, dest)"""

def test_bundles_answer_in_a_fresh_process_without_the_data(saved, clip, tmp_path):
    learns, paths = saved
    alone = tmp_path/clip.name
    alone.write_bytes(clip.read_bytes())
    subprocess.run([sys.executable, '-c', opening, str(alone), str(tmp_path/'said.pt'), *map(str, paths)], check=True, cwd=tmp_path)
    for (name,learn),(said,kind) in zip(learns.items(), torch.load(tmp_path/'said.pt', weights_only=True)):
        if 'digits' in name: continue       # its learner reads numbers of clips, not files
        expected = answer(learn, clip)
        assert (said[0], kind) == (str(expected[0]), type(expected[0]).__name__), name
        for a,b in zip(said[1:], expected[1:]): torch.testing.assert_close(torch.as_tensor(a).as_subclass(torch.Tensor), torch.as_tensor(b).as_subclass(torch.Tensor), rtol=0, atol=1e-5)     # another process may use other threads

def test_opened_bundles_stream_and_continue(saved, clips, clip, tmp_path):
    learns, paths = saved
    frames, seen = frames_of(clip, 5), torch.rand(4,3,32,32)
    for (name,learn),path in zip(learns.items(), paths):
        again = load_bundle(path)
        if name != 'masks':
            a,b = (StreamPredictor(o, seq_len=4) for o in (learn, again))
            for x,y in [(a.push(f), b.push(f)) for f in frames]:
                if isinstance(x, StreamForecast): assert torch.equal(x.frames, y.frames), name
                elif x: assert x.label == y.label and x.probs == y.probs, name
        if hasattr(learn.model, 'n_out'):
            assert torch.equal(forecast(learn, seen, 5), forecast(again, seen, 5)), name
            assert len({continue_video(o, clip, tmp_path/f'{i}.avi').read_bytes() for i,o in enumerate((learn, again))}) == 1, name

def test_the_card_tells_the_answer(saved):
    card = dict(zip(saved[0], ((p/'README.md').read_text() for p in saved[1])))
    for name,words in {'SimVP': '3 frames to come', 'classes': 'Down, Left, Right, Up, for each frame', 'numbers': '1 numbers, for each frame', 'masks': 'none, mark, for each pixel',
                       'ConvGRU, stride 2': 'stride=2'}.items(): assert words in card[name]

def test_a_head_of_ones_own_is_given_by_hand(clips, tmp_path):
    class Own(AvgHead): pass
    learn = settled(heads(Own, cnn)(clips))
    with pytest.raises(ValueError, match='head='): save_bundle(learn, tmp_path/'own', arch=cnn)
    again = load_bundle(save_bundle(learn, tmp_path/'own', arch=cnn, head=Own), arch=cnn, head=Own)
    assert type(again.model.head.head) is Own

def test_what_a_bundle_cannot_hold_is_named(clips, tmp_path):
    class Mine(ConvGRUForecaster): pass
    with pytest.raises(ValueError, match=r'Mine cannot be told.*ConvGRUForecaster, SimVP, TemporalUNet'): save_bundle(seq2seq_learner(future(clips), Mine, hidden=[8]), tmp_path/'mine')
    changed = settled(made['ConvGRU, stride 2'](clips)); changed.model.n_out = 2
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
def test_onnx_gives_the_numbers(clips, tmp_path, name):
    pytest.importorskip('onnxscript')
    learn = settled(exported[name](clips))
    told = export_onnx(learn, tmp_path/'m.onnx')
    assert told['difference'] < 1e-4 and told['any_length'] is (name != 'ConvGRU, stride 2')
    frames = torch.randint(0, 256, (3, 7 if told['any_length'] else 4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad(): out = learn.model(learn.dls.valid.after_batch(TensorVideo(frames))).as_subclass(torch.Tensor)
    act = getattr(learn.loss_func, 'activation', None) or learn.loss_func.decodes
    for a,b in zip(run_onnx(tmp_path/'m.onnx', frames), (act(out), out)): assert torch.allclose(a, b, atol=1e-4)

def test_the_predictor_reads_and_gives_frames_but_no_label(clips, clip, tmp_path):
    pytest.importorskip('onnxscript')
    learn = settled(made['SimVP'](clips))
    assert export_onnx(learn, tmp_path/'m.onnx')['difference'] < 1e-4
    predict = OnnxPredictor(tmp_path/'m.onnx', threads=1)
    said = predict.preds(predict.read(clip)[None])[0]
    assert said.shape == (3,3,32,32) and np.allclose(said, answer(learn, clip)[1], atol=1e-4)
    with pytest.raises(ValueError, match='TensorVideoTfm.*preds'): predict(clip)
