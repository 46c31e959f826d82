"Resumed training is bit-equal; growing clips leave no trace; errors name clips, steps and settings; two processes measure what one does."

import os, signal, subprocess, sys
from functools import partial

import pytest, torch
from fastai.vision.all import (
    CSVLogger,
    Callback,
    CancelFitException,
    CrossEntropyLossFlat,
    CutMix,
    EarlyStoppingCallback,
    GradientAccumulation,
    Learner,
    MixUp,
    RandomResizedCrop,
    RegressionBlock,
    SaveModelCallback,
    SimpleCNN,
    accuracy,
    aug_transforms,
    nn,
    set_seed,
)

from fastai_seq.train.guards import CheckCallbacks, FiniteLoss
from fastai_seq.train.callbacks import EMA
from fastai_seq.train.distributed import PerRank
from fastai_seq.train.progressive import ProgressiveClips
from fastai_seq.train.resume import Resumable
import fastai_seq.train.memory     # errors about memory get a note
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.find import get_instances
from fastai_seq.walkthrough import RNNModel, get_action_dataloaders, rnnmodel_splitter, simple_splitter
from fastai_seq.video.sampling import EveryFrame, PartOf, RandomClip, SegmentFrames

def loaders(clips, **kwargs):
    set_seed(0)
    return ImageSeqDataLoaders.from_folder(
        clips, **{**dict(seq_len=4, size=16, bs=4, seed=1, num_workers=0, sampler=SegmentFrames), **kwargs}
    )

def learner(clips, tmp_path, cbs=None, dls=None, **kwargs):
    dls = dls or loaders(clips)
    tmp_path.mkdir(exist_ok=True)
    set_seed(1)
    model = RNNModel(partial(SimpleCNN, [3,4,8]), n_out=2, pretrained=False, hidden_size=8)
    learn = Learner(dls, model, metrics=accuracy, path=tmp_path, cbs=cbs, splitter=rnnmodel_splitter, **kwargs)
    learn.remove_cb(learn.progress)
    learn.logger = lambda *a: None
    return learn

def weights(learn): return {k: v.clone() for k,v in learn.model.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def cb(order=0, **events):
    res = Callback(**events)
    res.order = order
    return res

class Stop(BaseException): "As a KeyboardInterrupt"

def stop_at(epoch, batch=1, fit=0):
    fits = [0]
    def before_fit(self): fits[0] += 1
    def before_batch(self):
        if self.training and (fits[0], self.epoch, self.iter) == (fit+1, epoch, batch): raise Stop
    return Callback(before_fit=before_fit, before_batch=before_batch)

# Resumable

def resumed(clips, tmp_path, train, stops, **kwargs):
    "The learner after `train`, undisturbed, and after it was stopped at each of `stops`"
    whole = learner(clips, tmp_path/'whole', **kwargs)
    train(whole, [stop_at(-1), Resumable()])
    for stop in stops:
        with pytest.raises(Stop): train(learner(clips, tmp_path/'parts', **kwargs), [stop, Resumable()])
    parts = learner(clips, tmp_path/'parts', **kwargs)
    train(parts, [stop_at(-1), Resumable()])
    assert same(weights(whole), weights(parts))
    a, b = whole.recorder, parts.recorder
    assert (
        [list(v) for v in a.values] == [list(v) for v in b.values]
        and list(a.lrs) == list(b.lrs)
        and a.iters == b.iters
    )
    assert torch.equal(torch.stack(list(a.losses)), torch.stack(list(b.losses)))
    assert {k: list(v) for k, v in getattr(a, 'hps', {}).items()} == {
        k: list(v) for k, v in getattr(b, 'hps', {}).items()
    }
    return whole, parts

def one_cycle(learn, cbs): learn.fit_one_cycle(4, 1e-2, cbs=cbs)

@pytest.mark.slow
def test_stopped_twice(clips, tmp_path): resumed(clips, tmp_path, one_cycle, [stop_at(1), stop_at(3)])

@pytest.mark.parametrize('cbs', [[MixUp], [CutMix, partial(EMA, .9)], [partial(GradientAccumulation, 6), partial(ProgressiveClips, ((.5,1),))]], ids=['mixup', 'cutmix, ema', 'accumulation, growing clips'])
@pytest.mark.slow
def test_with_callbacks_that_draw_or_remember(clips, tmp_path, cbs):
    def train(learn, more): learn.fit_one_cycle(3, 1e-2, cbs=[c() for c in cbs] + more)
    resumed(clips, tmp_path, train, [stop_at(2)])

@pytest.mark.slow
def test_with_augmentation(clips, tmp_path):
    def train(learn, cbs):
        learn.dls = loaders(clips, item_tfms=RandomResizedCrop(12), batch_tfms=aug_transforms(), sampler=RandomClip)
        one_cycle(learn, cbs)
    resumed(clips, tmp_path, train, [stop_at(2)])

@pytest.mark.parametrize('fit', [0, 1])
@pytest.mark.slow
def test_fine_tune_goes_on_in_the_right_phase(clips, tmp_path, fit):
    resumed(
        clips,
        tmp_path,
        lambda learn, cbs: learn.fine_tune(2, 1e-2, freeze_epochs=2, cbs=cbs),
        [stop_at(1, fit=fit)],
    )

@pytest.mark.slow
def test_best_model_and_early_stopping_are_as_if_undisturbed(clips, tmp_path):

    def train(learn, cbs):
        learn.fit(
            5,
            5e-2,
            cbs=[
                SaveModelCallback('accuracy'),
                EarlyStoppingCallback('accuracy', patience=2),
                CSVLogger(),
                *cbs,
            ],
        )

    whole, parts = resumed(clips, tmp_path, train, [stop_at(2)])
    a, b = (torch.load(tmp_path/o/'models/model.pth', weights_only=True) for o in ('whole', 'parts'))
    assert same(a, b)
    rows = [
        [l.rsplit(',', 1)[0] for l in (tmp_path / o / 'history.csv').read_text().splitlines()]
        for o in ('whole', 'parts')
    ]
    assert rows[0] == rows[1]

@pytest.mark.slow
def test_a_torch_optimiser(clips, tmp_path):
    from fastai.optimizer import OptimWrapper
    resumed(clips, tmp_path, one_cycle, [stop_at(2)], opt_func=partial(OptimWrapper, opt=torch.optim.AdamW))

@pytest.mark.slow
def test_another_process_with_workers(clips, tmp_path, capsys):
    "Killed in writing its third checkpoint, with two workers: the second one is whole; workers or not, the result is the same"
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(os.path.dirname(__file__))!r})
import torch
from pathlib import Path
from test_callbacks import *
from fastai.vision.all import CutMix
out = Path(sys.argv[1])
learn = learner(None, out, dls=loaders({str(clips)!r}, num_workers=2), cbs=CutMix())
save = torch.save
def dying(o, f, *a, **k):
    if len(o['fits'][0]['rows']) < 3: return save(o, f, *a, **k)
    Path(f).write_bytes(b'half')
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = dying
one_cycle(learn, [Resumable()])
"""
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, tmp_path/'parts'], capture_output=True, text=True)
    assert res.returncode == -signal.SIGKILL, res.stderr
    parts = learner(clips, tmp_path/'parts', cbs=CutMix())
    one_cycle(parts, [Resumable()])
    assert '2 of 4 epochs are done' in capsys.readouterr().out
    whole = learner(clips, tmp_path/'whole', cbs=CutMix())
    one_cycle(whole, [])
    assert same(weights(whole), weights(parts))

def test_a_checkpoint_runs_no_code(clips, tmp_path):
    learn = learner(clips, tmp_path)
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'hacked'),)
    (tmp_path/'models').mkdir()
    torch.save(dict(fits=[], evil=Evil()), tmp_path/'models/resume.pth')
    with pytest.raises(ValueError, match='no checkpoint of Resumable'): learn.fit(1, cbs=Resumable())
    assert not (tmp_path/'hacked').exists()

def test_other_settings_are_named(clips, tmp_path):
    learner(clips, tmp_path).fit_one_cycle(1, 1e-2, cbs=Resumable())
    def again(match, n=1, lr=1e-2, cbs=(), dls=None, **kwargs):
        with pytest.raises(ValueError, match=match):
            learner(clips, tmp_path, dls=dls, **kwargs).fit_one_cycle(n, lr, cbs=[Resumable(), *cbs])
    again('epochs: 1 there, 2 now', n=2)
    again('schedule', lr=1e-3)
    again('callbacks', cbs=[MixUp()])
    again('clips per batch: 4 there, 2 now', dls=loaders(clips, bs=2))
    again('reading', dls=loaders(clips, size=24))
    again('loss', loss_func=nn.CrossEntropyLoss())
    frozen = learner(clips, tmp_path)
    frozen.freeze()
    with pytest.raises(ValueError, match='parameters trained'): frozen.fit_one_cycle(1, 1e-2, cbs=Resumable())

# ProgressiveClips

@pytest.mark.slow
def test_growing_clips_with_workers_read_what_is_needed_and_validate_whole(clips, tmp_path):
    shapes = []
    def note(self):
        shapes.append((
            self.training,
            self.epoch,
            tuple(self.x.shape[1:]),
            max(i for _, idxs in self.x.source for i in idxs),
        ))

    learn = learner(
        clips,
        tmp_path,
        [ProgressiveClips(((0.5, 0.5), (0.5, 1)), 0.75, multiple=4), cb(-50, before_batch=note)],
        dls=loaders(clips, num_workers=2),
    )
    before = learn.dls.train
    learn.fit(4)
    got = {e: {s for t,ep,s,_ in shapes if t and ep == e} for e in range(4)}
    assert got == {0: {(2,3,8,8)}, 1: {(2,3,8,8)}, 2: {(2,3,16,16)}, 3: {(4,3,16,16)}}
    assert {s for t,_,s,_ in shapes if not t} == {(4,3,16,16)}
    assert max(m for t,e,_,m in shapes if t and e < 2) > 6    # the whole clip of 12 frames is looked at
    assert learn.dls.train is before and before.one_batch()[0].shape[1:] == (4,3,16,16)

@pytest.mark.slow
def test_growing_clips_draw_new_each_epoch_and_alike_with_workers(clips, tmp_path):
    def run(workers):
        seen = []
        learn = learner(
            clips,
            tmp_path,
            [
                ProgressiveClips(((0.5, 0.5),), 0.75, multiple=4),
                cb(-50, before_batch=lambda self: self.training and seen.append(self.x.source)),
            ],
            dls=loaders(clips, num_workers=workers),
        )
        learn.fit(3)
        return seen
    one, two = run(0), run(2)
    assert one == two
    n = len(one)//3
    assert one[:n] != one[n:2*n]

def test_growing_clips_of_a_model_of_one_shape(clips, tmp_path):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4*3*16*16, 2)
        def forward(self, x): return self.net(x.flatten(1))
    learn = learner(clips, tmp_path, ProgressiveClips())
    learn.model = Fixed()
    learn.splitter = lambda m: [list(m.parameters())]
    with pytest.raises(ValueError, match='does not take clips of 0.5 of the frames.*stages that keep it'): learn.fit(4)
    learn.model.train()
    learn.add_cb(stop_at(0, 0))
    learn.remove_cb(ProgressiveClips)
    with pytest.raises(Stop): learn.fit(1)

# FiniteLoss

def nan_at(learn, part, order=-50):
    def before_batch(self):
        if self.training and self.epoch == 1 and self.iter == 1: part(self)
    learn.add_cb(cb(order, before_batch=before_batch))
    return learn

def message(learn, **kwargs):
    with pytest.raises(FloatingPointError) as e: learn.fit(2, **kwargs)
    return str(e.value)

def test_frames_that_are_not_finite_are_named_before_they_are_mixed(clips, tmp_path):
    def spoil(self):
        self.xb[0][2,1,0,3,3] = float('nan')
        named.append(str(self.xb[0].source[2][0]))
    named = []
    learn = nan_at(learner(clips, tmp_path, [FiniteLoss(), CutMix()]), spoil)
    msg = message(learn)
    assert (
        'training, epoch 1, batch 1 of' in msg
        and 'the frames of 1 of 4 clips' in msg
        and named[0] in msg
        and msg.count('.avi') == 1
    )
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())

def test_weights_that_are_not_finite_are_told_from_clips(clips, tmp_path):
    def spoil(self): self.model.head.classify[-1].weight.data[0,0] = float('inf')
    msg = message(nan_at(learner(clips, tmp_path, FiniteLoss()), spoil))
    assert (
        'weights and statistics are not finite' in msg
        and 'head' in msg
        and '.avi' not in msg
        and 'learning rate' in msg
    )

def test_a_clip_that_the_model_cannot_bear(clips, tmp_path):
    class Log(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net
        def forward(self, x): return self.net(x) + x.amax((1,2,3,4)).log()[:,None]*0
    def spoil(self):
        self.xb[0][3] = 0.
        named.append(str(self.xb[0].source[3][0]))
    named = []
    learn = learner(clips, tmp_path, FiniteLoss())
    learn.model = Log(learn.model)
    learn.splitter = lambda m: [list(m.parameters())]
    msg = message(nan_at(learn, spoil))
    assert 'alone, 1 of 4 clips' in msg and named[0] in msg and msg.count('.avi') == 1
    assert learn.model.training

def test_clips_without_a_name_get_their_place(clips, tmp_path):
    dls = get_action_dataloaders(get_instances(clips), bs=4, image_size=16, seq_len=3, num_workers=0)
    def spoil(self): self.xb[0][1][2] = float('inf')
    assert 'clip 2 of the batch' in message(nan_at(learner(clips, tmp_path, FiniteLoss(), dls=dls), spoil))

def test_only_together(clips, tmp_path):
    "A loss that is infinite in training only is blamed on training"
    def spoil(self): self.learn.loss = self.loss*float('inf')
    learn = learner(clips, tmp_path, [FiniteLoss(), Callback(after_loss=spoil)])
    assert 'so is the loss of each of the 4 clips alone' in message(learn)

def test_autocast_is_left(clips, tmp_path):
    learn = learner(clips, tmp_path, [FiniteLoss()]).to_bf16()
    message(nan_at(learn, lambda self: self.model.head.classify[-1].weight.data.fill_(float('nan'))))
    assert not torch.is_autocast_enabled()

@pytest.mark.slow
def test_finite_loss_changes_nothing(clips, tmp_path):
    a, b = learner(clips, tmp_path, [MixUp()]), learner(
        clips, tmp_path, [MixUp(), FiniteLoss(), CheckCallbacks(), PerRank()]
    )
    for l in (a, b):
        set_seed(3)
        l.fit(2)
    assert same(weights(a), weights(b))
    b.get_preds()
    b.validate()
    b.lr_find(num_it=6, stop_div=False, show_plot=False)

def test_clips_of_several_lengths(clips, tmp_path):
    dls = loaders(clips, sampler=EveryFrame(5))
    def spoil(self):
        self.xb[0].lengths = (5,4,3,2)
        self.xb[0][3,0] = float('nan')
    assert 'frames of 1 of 4' in message(nan_at(learner(clips, tmp_path, FiniteLoss(), dls=dls), spoil))

# memory

@pytest.mark.parametrize('error', [torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'), MemoryError(), RuntimeError('[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes')], ids=['cuda', 'python', 'cpu'])
@pytest.mark.parametrize('validating', [False, True])
@pytest.mark.slow
def test_memory_errors_get_a_note_of_the_knobs(clips, tmp_path, error, validating):
    learn = learner(clips, tmp_path)
    def fail(mod, args):
        if mod.training != validating: raise error
    learn.model.register_forward_pre_hook(fail)
    with pytest.raises(type(error)) as e: learn.fit(1)
    note, = e.value.__notes__
    error.__notes__.clear()
    for knob in (
        'validation' if validating else 'training',
        '4 clips of 4 frames of 16x16',
        'bs=',
        'seq_len=',
        'size=',
        'chunk',
        'bf16',
        'GradientAccumulation',
    ):
        assert knob in note, knob

def test_other_errors_get_none(clips, tmp_path):
    learn = learner(clips, tmp_path)
    learn.model.register_forward_pre_hook(lambda *a: 1/0)
    with pytest.raises(ZeroDivisionError) as e: learn.fit(1)
    assert not getattr(e.value, '__notes__', None)

# CheckCallbacks

@pytest.mark.parametrize('loss', [nn.CrossEntropyLoss(), lambda pred, y: torch.nn.functional.cross_entropy(pred, y)], ids=["torch's", 'a function'])
def test_mixing_with_a_loss_that_cannot_be_mixed(clips, tmp_path, loss):
    "fastai alone stops too, but in words that help nobody; with numbers as targets any loss will do"
    with pytest.raises(RuntimeError, match='expected dtype'): learner(clips, tmp_path, MixUp(), loss_func=loss).fit(1)
    with pytest.raises(ValueError, match='CrossEntropyLossFlat'):
        learner(clips, tmp_path, [MixUp(), CheckCallbacks()], loss_func=loss).fit(1)
    files = get_instances(clips)
    dls = ImageSeqDataLoaders.from_lists(
        clips,
        files,
        [[float(i), 1.0] for i in range(len(files))],
        seq_len=2,
        size=16,
        bs=4,
        num_workers=0,
        y_block=RegressionBlock(n_out=2),
    )
    learn = learner(clips, tmp_path, [MixUp(), CheckCallbacks(), FiniteLoss()], dls=dls, loss_func=nn.MSELoss())
    learn.metrics = []
    learn.fit(1)

@pytest.mark.parametrize('device', [torch.device('cpu'), 'cpu'], ids=['device', 'its name'])
def test_mixed_precision_on_a_cpu_is_told_to_do_nothing(clips, tmp_path, device):
    dls = loaders(clips).to(device)
    with pytest.warns(UserWarning, match='no effect on a CPU'):
        learner(clips, tmp_path, CheckCallbacks(), dls=dls).to_bf16().fit(1)

# several processes

@pytest.mark.slow
def test_two_processes_measure_what_one_does(clips, tmp_path):
    "Under torchrun with gloo: each clip is trained on in one process and counts once in validation, draws differ, weights agree, a checkpoint holds both"
    pytest.importorskip('accelerate')
    code = f"""
import sys
sys.path.insert(0, {str(os.path.dirname(__file__))!r})
import torch, fastai.distributed
from pathlib import Path
from test_callbacks import *
from fastai.vision.all import F1Score, F, rank_distrib
out = Path({str(tmp_path)!r})
def make(cbs):
    dls = loaders({str(clips)!r}, bs=3, splitter=lambda o: (list(range(6, 24)), list(range(5))))
    learn = learner(None, out, dls=dls, cbs=[*cbs, PerRank(), MixUp(), CheckCallbacks(), ProgressiveClips(((.5,1),))])
    learn.add_cb(EMA()); learn.metrics = [accuracy, F1Score()]
    return learn
if __name__ == '__main__':
    seen, draws = [[], []], []
    def note(self):
        seen[self.training].extend(str(f) for f,_ in self.x.source)
        if self.training: draws.append(torch.rand(1).item())
    learn = make([cb(-50, before_batch=note)])
    with learn.distrib_ctx(sync_bn=False, cpu=True):
        learn.fit(2, 1e-2, cbs=Resumable())
        once = [list(o) for o in seen]
        again = make([cb(-50)])
        with again.distrib_ctx(sync_bn=False, cpu=True): again.fit(2, 1e-2, cbs=Resumable())
    torch.save(dict(seen=once, draws=draws, values=[list(v) for v in learn.recorder.values], end=weights(learn), again=weights(again), r=torch.rand(1).item()), out/f'rank{{rank_distrib()}}.pth')
"""
    (tmp_path/'train.py').write_text(code)
    run = subprocess.run(
        [
            sys.executable,
            '-W',
            'ignore',
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node',
            '2',
            tmp_path / 'train.py',
        ],
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    a, b = (torch.load(tmp_path/f'rank{r}.pth', weights_only=True) for r in range(2))
    n = len(a['seen'][1])//2
    assert (
        not set(a['seen'][1][:n]) & set(b['seen'][1][:n])
        and len(set(a['seen'][1][:n]) | set(b['seen'][1][:n])) == 2 * n == 18
    )
    assert (
        len(set(a['seen'][0]) | set(b['seen'][0])) == 5 and len(a['seen'][0]) == len(b['seen'][0]) == 6
    )  # one clip twice in each of 2 epochs, to be even
    assert not set(a['draws']) & set(b['draws'])
    assert same(a['end'], b['end']) and same(a['end'], a['again']) and a['values'] == b['values']
    from fastai.vision.all import F1Score
    one = learner(clips, tmp_path, dls=loaders(clips, bs=3, splitter=lambda o: (list(range(6, 24)), list(range(5)))))
    one.metrics = [accuracy, F1Score()]
    one.model.load_state_dict(a['end'])
    assert list(one.validate()) == pytest.approx(a['values'][-1][1:], abs=1e-6)

@pytest.mark.parametrize('cls', [FiniteLoss, EMA, partial(ProgressiveClips, ((.5, 1),))])
@pytest.mark.slow
def test_an_interrupted_lr_find_turns_nothing_off(clips, tmp_path, cls):
    own = cls()
    learn, ran = learner(clips, tmp_path, [own]), []
    with (
        pytest.raises(Stop),
        learn.added_cbs([cb(after_batch=lambda self: ran.append(own.run)), stop_at(0, 1)]),
    ):
        learn.lr_find(num_it=6, show_plot=False)
    assert ran == [False]
    learn.fit(1, cbs=cb(after_batch=lambda self: ran.append(own.run)))
    assert all(ran[1:]) and len(ran) > 2
    own.run = False
    learn.fit(1, cbs=cb(before_batch=lambda self: ran.append(own.run)))
    assert not ran[-1]

def test_a_share_of_a_part_is_refused(clips):
    from fastai_seq.train.progressive import fewer_frames
    with pytest.raises(ValueError, match='a share of it'): fewer_frames(PartOf(RandomClip(6), 0, 4), .5)
