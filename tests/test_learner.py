"What fastai's Learner can do it can do with every head and with video networks; a head trained on kept features is the learner's own."

import pickle
from functools import partial

import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.data import WeightedDL
from fastai.callback.training import BnFreeze
from fastai.data.core import DataLoaders
from fastai.data.transforms import parent_label
from fastai.layers import SimpleCNN
from fastai.learner import Learner
from fastai.metrics import accuracy, accuracy_multi, mse
from fastai.torch_core import Module, set_seed
from fastai.vision.augment import aug_transforms
from torchvision.models import video

from fastai_seq.train import features as room
from fastai_seq.data.augment import LabelledFlip
from fastai_seq.train.resume import Resumable
from fastai_seq.commands.train import fit_stages
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.find import get_instances
from fastai_seq.train.learner import seq_learner
from fastai_seq.models.heads import head_classes
from fastai_seq.video.sampling import EveryFrame, SegmentFrames, UniformFrames
from fastai_seq.video.files import write_video

tiny = partial(SimpleCNN, [3,8,8])
load = partial(ImageSeqDataLoaders.from_folder, seq_len=3, size=16, bs=4, seed=0, num_workers=0, sampler=SegmentFrames)

class Block(torch.nn.Module):
    "An image network with a residual block, for the head that needs one"
    def __init__(self, n_out=2):
        super().__init__()
        from torchvision.models.resnet import BasicBlock
        self.stem, self.block = torch.nn.Conv2d(3, 8, 3, 2, 1), BasicBlock(8, 8)
        self.pool, self.fc = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(8, n_out)
    def forward(self, x): return self.fc(self.pool(self.block(self.stem(x))).flatten(1))

def arch(head): return Block if head == 'shift' else tiny
def state(m): return {k: v.clone() for k,v in m.state_dict().items()}
def same(a, b): return all(torch.equal(v, b[k]) for k,v in a.items())

def kept(learn, *args, **kwargs):
    "What the last row of `fit_head` says, and what `validate` says"
    with learn.no_bar(), learn.no_logging():
        learn.fit_head(*args, **kwargs)
        return list(learn.final_record)[1:], list(learn.validate())

@pytest.mark.parametrize('head', [*head_classes, 'r3d_18'])
@pytest.mark.slow
def test_a_learner_with_every_head(clips, tmp_path, head):
    dls = load(clips, batch_tfms=aug_transforms())
    kwargs = {} if head == 'r3d_18' else dict(head=head)
    learn = seq_learner(
        dls,
        video.r3d_18 if head == 'r3d_18' else arch(head),
        pretrained=False,
        metrics=accuracy,
        path=tmp_path,
        **kwargs,
    )
    with learn.no_bar(), learn.no_logging():
        assert 'Trainable' in str(learn.summary())
        learn.lr_find(num_it=12, stop_div=False, show_plot=False)
        learn.fine_tune(1)
        assert learn.tta(n=2)[0].shape == (len(dls.valid_ds), dls.c)

def test_the_model_is_asked_on_the_device_of_the_data(clips):
    "A learner's model is on the CPU until it is trained, its data may be on a GPU; `meta` is a device without numbers that every machine has"
    dls = load(clips)
    dls.device = torch.device('meta')
    learn = seq_learner(dls, tiny, 'lstm', pretrained=False, normalize=False)
    assert next(learn.model.parameters()).device.type == 'meta'

@pytest.mark.parametrize('head', head_classes)
@pytest.mark.slow
def test_a_head_on_kept_features_is_the_learners_own(clips, tmp_path, head):
    "What the last row says is what `validate` says; the encoder is as it was, its BatchNorm too; the head is not"
    learn = seq_learner(
        load(clips, batch_tfms=aug_transforms()),
        arch(head),
        head=head,
        pretrained=False,
        metrics=accuracy,
        path=tmp_path,
    )
    encoder, head = state(learn.model.encoder), state(learn.model.head)
    last, told = kept(learn, 2, 1e-2, looks=2)
    assert last == pytest.approx(told, abs=1e-4)
    assert same(encoder, learn.model.encoder.state_dict()) and not same(head, learn.model.head.state_dict())

@pytest.fixture(scope='module')
def uneven(tmp_path_factory):
    path = tmp_path_factory.mktemp('uneven')
    for k,n in enumerate([2,5,3,6,4,2,6,3]):
        write_video(
            path / 'AB'[k % 2] / f'v_{"AB"[k % 2]}_g{k//2+1:02}_c01.avi',
            torch.randint(0, 255, (n, 16, 16, 3), dtype=torch.uint8, generator=torch.manual_seed(k)).numpy(),
            8,
        )
    return path

@pytest.mark.parametrize('head', ['mean', 'attention', 'gru', 'convgru', 'transformer', 'diff'])
@pytest.mark.slow
def test_kept_features_of_clips_of_any_length(uneven, tmp_path, head):
    learn = seq_learner(
        load(uneven, sampler=EveryFrame, seq_len=8, bs=2),
        tiny,
        head=head,
        pretrained=False,
        metrics=accuracy,
        path=tmp_path,
    )
    last, told = kept(learn, 1, 1e-2)
    assert last == pytest.approx(told, abs=1e-4)

def test_padding_is_no_frame_in_training_validation_and_prediction(uneven, tmp_path):
    "fastai casts batches to plain tensors before the model; the lengths must come through"
    dls = load(uneven, sampler=EveryFrame, seq_len=8, bs=4)      # of the six to train on no four are of one length
    learn, seen = seq_learner(dls, tiny, head='gru', pretrained=False, path=tmp_path), []
    with learn.no_bar(), learn.no_logging():
        preds = learn.get_preds()[0]
        for f,p in zip(dls.valid.items, preds): torch.testing.assert_close(learn.predict(f)[2], p, rtol=0, atol=1e-5)
        learn.model.head.register_forward_pre_hook(lambda m, args: seen.append(args[1]) if m.training else None)
        learn.fit(1)
    assert len(seen) == 1 and len(set(seen[0])) > 1

@pytest.mark.slow
def test_same_seed_same_head(clips, tmp_path):
    def trained():
        set_seed(3)
        learn = seq_learner(load(clips, batch_tfms=aug_transforms()), tiny, head='gru', pretrained=False, path=tmp_path)
        with learn.no_bar(), learn.no_logging(): learn.fit_head(2, 1e-2)
        return state(learn.model)
    assert same(trained(), trained())

@pytest.mark.parametrize('targets', ['several labels', 'numbers'])
def test_kept_features_with_other_targets(clips, tmp_path, targets):
    files = get_instances(clips)
    labels = [[parent_label(f), 'all'] if targets == 'several labels' else [float(i), 1.] for i,f in enumerate(files)]
    dls = ImageSeqDataLoaders.from_lists(clips, files, labels, seq_len=2, size=16, bs=4, seed=0, num_workers=0)
    learn = seq_learner(
        dls,
        tiny,
        head='gru',
        pretrained=False,
        metrics=accuracy_multi if targets == 'several labels' else mse,
        path=tmp_path,
    )
    last, told = kept(learn, 1, 1e-3)
    assert last == pytest.approx(told, rel=1e-3)

def test_an_uneven_batch_can_be_summed_up(uneven, tmp_path):
    learn = seq_learner(
        load(uneven, sampler=EveryFrame, seq_len=8, bs=4), tiny, head='lstm', pretrained=False, path=tmp_path
    )
    assert 'Trainable' in str(learn.summary())

def test_what_does_not_work_on_kept_features_is_named(clips, tmp_path):
    learn = seq_learner(load(clips), tiny, head='gru', pretrained=False, path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        with pytest.raises(ValueError, match='Resumable does not work'): learn.fit_head(1, cbs=Resumable())
        with pytest.raises(ValueError, match='looks=0'): learn.fit_head(1, looks=0)
        with pytest.raises(FloatingPointError, match='not finite in training, epoch'): learn.fit_head(2, 1e30)

def test_weighted_clips_stay_weighted(clips, tmp_path):
    dls = load(clips)
    weights = [1. if int(y) else 1e-9 for _,y in dls.train_ds]
    learn, seen = (
        seq_learner(
            DataLoaders(dls.train.new(dls.train_ds, cls=WeightedDL, wgts=weights), dls.valid),
            tiny,
            n_out=2,
            pretrained=False,
            path=tmp_path,
        ),
        [],
    )
    class See(Callback):
        def before_batch(self): seen.extend(self.y.tolist() if self.training else [])
    with learn.no_bar(), learn.no_logging(): learn.fit_head(1, looks=1, cbs=See())
    assert set(seen) == {1}

def test_labels_are_not_mirrored_in_test_time_augmentation(clips, tmp_path):
    "For a model whose answer says on which side a clip is brighter, and that answers a mirrored clip rightly"
    class Side(Module):
        def __init__(self): self.a = torch.nn.Parameter(torch.zeros(1))
        def forward(self, x):
            s = torch.Tensor(x)[..., :8].mean((1,2,3,4)) - torch.Tensor(x)[..., 8:].mean((1,2,3,4))
            return torch.stack([50*s, -50*s], 1) + self.a
    dls = load(clips, sampler=UniformFrames, batch_tfms=LabelledFlip({'MoveLeft': 'MoveRight'}, p=1.))
    learn = Learner(dls, Side(), path=tmp_path)
    with learn.no_bar(): torch.testing.assert_close(learn.tta(n=1, beta=0.)[0], learn.get_preds()[0])
    with learn.no_bar(): assert learn.tta(dl=dls.test_dl(list(dls.valid_ds.items[:2])), n=1)[0].shape == (2,2)

def test_statistics_stay_when_the_encoder_learns_too(clips, tmp_path):
    "As `fastai-seq train --fine_tune` has it"
    learn = seq_learner(
        load(clips), arch('shift'), pretrained=False, head='avg', path=tmp_path, train_bn=False, cbs=BnFreeze
    )
    bns = [m for m in learn.model.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [(m.running_mean.clone(), m.weight.clone()) for m in bns]
    conv = next(m for m in learn.model.encoder.modules() if isinstance(m, torch.nn.Conv2d)).weight.clone()
    with learn.no_bar(), learn.no_logging(): fit_stages(learn, True, 1, 1, 1e-2)
    assert bns and all(torch.equal(m.running_mean, a) and torch.equal(m.weight, b) for m, (a, b) in zip(bns, before))
    assert not torch.equal(
        next(m for m in learn.model.encoder.modules() if isinstance(m, torch.nn.Conv2d)).weight, conv
    )

def test_fit_head_where_processes_start_anew(clips, monkeypatch):
    "Their loaders are pickled (Linux does so from Python 3.14 on)"
    learn = seq_learner(load(clips), tiny, pretrained=False, head='avg')
    seen, look = [], room._look
    def pickled(learn, dl, progress):
        seen.append(pickle.dumps(dl.get_idxs))
        return look(learn, dl, progress)
    monkeypatch.setattr(room, '_look', pickled)
    with learn.no_bar(), learn.no_logging(): learn.fit_head(1)
    assert seen
