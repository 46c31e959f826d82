"`train_clips`: what it gives is used as any other learner, goes on where it was killed, and knows nothing of the data set."
import re, subprocess, sys

import numpy as np, pytest, torch
from fastai.learner import load_learner
from torchvision.models import mobilenet_v2

from fastai_seq.data.augment import safe_tfms
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.find import get_instances
from fastai_seq.deploy.bundle import load_bundle, save_bundle
from fastai_seq.deploy.export import export_onnx
from fastai_seq.deploy.predict_timeline import predict_timeline
from fastai_seq.deploy.runtime import OnnxPredictor
from fastai_seq.deploy.stream import StreamPredictor
from fastai_seq.judge.floor import beside_floor
from fastai_seq.models.ensemble import Averaged, best_weights
from fastai_seq.models.linear import ClipPixels, LinearModel, fit_linear
from fastai_seq.models.motion import MotionNet, small_grey
from fastai_seq.models.places import ClipPlaces, PlacesNet
from fastai_seq.train import candidates, recipe
from fastai_seq.train.candidates import NetCandidate, take_look
from fastai_seq.train.recipe import grouped_folds, settings_digest, train_clips
from fastai_seq.video.read import read_frames
from fastai_seq.video.sampling import EveryFrame

def load(path, **kwargs):
    return ImageSeqDataLoaders.from_folder(path, **dict(seq_len=4, size=32, bs=4, seed=0, num_workers=0) | kwargs)

@pytest.fixture(scope='module')
def trained(clips, tmp_path_factory):
    return train_clips(load(clips), .05, weights=False, path=tmp_path_factory.mktemp('recipe'))

def test_it_is_used_as_any_other_learner(trained, clips, tmp_path):
    clip = get_instances(clips)[0]
    with trained.no_bar(): expected = trained.predict(clip)[2]
    trained.export(tmp_path/'model.pkl')
    again = load_learner(tmp_path/'model.pkl')
    bundle = load_bundle(save_bundle(trained, tmp_path/'bundle'))
    for learn in (again, bundle):
        with learn.no_bar(): torch.testing.assert_close(learn.predict(clip)[2], expected, rtol=0, atol=1e-5)
    assert len(predict_timeline(trained, clip, window=.3, stride=.1).df)
    stream = StreamPredictor(trained, seq_len=4)
    answers = [a for f in read_frames(clip, range(6)) if (a := stream.push(f))]
    assert answers and set(answers[-1].probs) == set(trained.dls.vocab)

def test_it_is_exported(trained, clips, tmp_path):
    for package in ('onnx', 'onnxruntime', 'onnxscript'): pytest.importorskip(package)
    clip = get_instances(clips)[0]
    export_onnx(trained, tmp_path/'model.onnx')
    with trained.no_bar(): expected = trained.predict(clip)[2]
    np.testing.assert_allclose([*OnnxPredictor(tmp_path/'model.onnx')(clip).probs.values()], expected, atol=1e-4)

def joined(n_out=2):
    "A model of all kinds that the recipe joins, of random weights"
    features = ClipPlaces(mobilenet_v2)
    linear = LinearModel(features, 4*features.n_features, n_out, stats=True)
    return Averaged([LinearModel(ClipPixels(), 12*18*18, n_out), linear, PlacesNet(features, n_out), MotionNet(n_out)], [1, 1, 1, 1])

def test_all_that_it_joins_is_used_as_any_other_model(clips, tmp_path):
    clip, learn = get_instances(clips)[0], recipe.seq_learner(load(clips), joined())
    with learn.no_bar(): expected = learn.predict(clip)[2]
    bundle = load_bundle(save_bundle(learn, tmp_path/'bundle'))
    with bundle.no_bar(): torch.testing.assert_close(bundle.predict(clip)[2], expected, rtol=0, atol=1e-5)
    for package in ('onnx', 'onnxruntime', 'onnxscript'): pytest.importorskip(package)
    export_onnx(learn, tmp_path/'model.onnx')
    np.testing.assert_allclose([*OnnxPredictor(tmp_path/'model.onnx')(clip).probs.values()], expected, atol=1e-4)

def test_what_an_image_network_sees_is_tried(clips, tmp_path):
    torch.save(mobilenet_v2().state_dict(), tmp_path/'weights.pth')
    learn = train_clips(load(clips), .05, weights=tmp_path/'weights.pth', path=tmp_path)
    assert {'image network, linear', 'network of places'} <= set(learn.tried.index)

def test_what_several_see_is_computed_once(clips):
    model, calls = joined().eval(), []
    model.models[1].features.register_forward_hook(lambda *_: calls.append(1))
    x = load(clips).train.one_batch()[0]
    one_by_one = sum(m(x).log_softmax(1) for m in model.models)
    calls.clear()
    torch.testing.assert_close(model(x), one_by_one)
    assert len(calls) == 1

def test_models_of_frames_are_joined_too(clips):
    from fastai_seq.models.seqmodel import create_seq_model
    from torchvision.models import squeezenet1_1
    model = create_seq_model(squeezenet1_1, 2, 'lstm', pretrained=False, hidden_size=8).eval()
    x = load(clips).train.one_batch()[0]
    torch.testing.assert_close(Averaged([model], [1.])(x), model(x).log_softmax(1))

def test_what_was_seen_already_is_answered_alike(clips):
    x = load(clips).train.one_batch()[0]
    for model in joined().eval().models:
        if hasattr(model, 'features'): torch.testing.assert_close(model(x), model.scores(model.features(x)))

def test_a_killed_one_goes_on_to_the_same_model(trained, clips, tmp_path, monkeypatch):
    fit, calls = NetCandidate.fit, []
    def killed(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 4: raise KeyboardInterrupt
        return fit(self, *args, **kwargs)
    def plan(self, *args): return dict(epochs=2)                # what it measures is not the same twice
    monkeypatch.setattr(NetCandidate, 'plan', plan)
    monkeypatch.setattr(NetCandidate, 'fit', killed)
    train = lambda: train_clips(load(clips), .05, weights=False, path=tmp_path)
    with pytest.raises(KeyboardInterrupt): train()
    kept, = tmp_path.rglob('train_clips_*.pt')
    finished = torch.load(kept, weights_only=True)
    assert {'folds of pixels, linear', 'folds of network of motion'} <= set(finished)
    learn = train()
    assert len(calls) == 5 and not kept.exists()         # three folds and the last fit, which was killed once
    assert (learn.tried.weight > 0).any()

def test_the_digest_is_of_this_data_and_no_process(clips):
    code = f'''
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.train.recipe import settings_digest
dls = ImageSeqDataLoaders.from_folder({str(clips)!r}, seq_len=4, size=32, bs=4, seed=0, num_workers=0)
print('digest', settings_digest(dls, minutes=1))'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    mine = settings_digest(load(clips), minutes=1)
    assert re.search(r'digest (\w+)', out)[1] == mine
    others = [settings_digest(load(clips), minutes=2), settings_digest(load(clips, seq_len=3), minutes=1),
              settings_digest(load(clips, size=40), minutes=1), settings_digest(load(clips, seed=3), minutes=1)]
    assert len({mine, *others}) == 5

def test_what_is_no_class_per_clip_is_refused(clips):
    dls = ImageSeqDataLoaders.from_path_func(clips, get_instances(clips), lambda f: float(len(f.name)), seq_len=3, size=16, bs=4)
    with pytest.raises(ValueError, match='RegressionTask: use seq_learner'): train_clips(dls)
    with pytest.raises(ValueError, match='minutes=0'): train_clips(load(clips), minutes=0)

def test_one_recording_per_class_cannot_be_judged(clips):
    with pytest.raises(ValueError, match='one recording per class'):
        train_clips(load(clips), .01, group=lambda f: f.parent.name, weights=False)

@pytest.mark.parametrize('seed', range(20))
def test_folds_share_no_group_and_no_clip(seed):
    rng = np.random.default_rng(seed)
    n_classes, n_groups = rng.integers(2, 6), rng.integers(3, 12)
    across = rng.random() < .5                            # a person in every class, or a recording of one
    labels = rng.integers(0, n_classes, 80)
    groups = [f'{g}' if across else f'{l}_{g}' for g, l in zip(rng.integers(0, n_groups, 80), labels)]
    folds = grouped_folds(groups, labels, seed=seed)
    judged = [i for _, o in folds for i in o]
    assert len(judged) == len(set(judged))
    for fit, o in folds:
        assert not {groups[i] for i in fit} & {groups[i] for i in o}
        assert set(labels[o]) <= set(labels[fit])

def test_augmented_looks_are_near_the_plain_one(clips):
    "Light is changed before frames are normalised"
    dls = load(clips)
    recipe.seq_learner(dls, MotionNet(dls.c))
    flat = torch.nn.Flatten()
    plain, varied = (take_look(dls, [flat], tfms)[flat].float() for tfms in ((), safe_tfms()))
    assert abs(plain.mean() - varied.mean()) < .4 and .6 < varied.std()/plain.std() < 1.5

@pytest.mark.parametrize('model', [MotionNet(3), ClipPixels(), ClipPlaces(mobilenet_v2)], ids=lambda m: type(m).__name__)
def test_padding_is_no_frame(model, clips):
    x = load(clips, sampler=EveryFrame, bs=24, drop_last=False).train.one_batch()[0]
    x.lengths = (2,)*len(x)
    with pytest.raises(ValueError, match='padding'): model(x)

def test_light_does_not_count():
    x = torch.rand(2, 4, 3, 8, 8).repeat_interleave(6, -1).repeat_interleave(6, -2)
    torch.testing.assert_close(small_grey(.5*x + .2, (16, 16)), small_grey(x, (16, 16)), rtol=0, atol=.3)

def test_the_linear_layer_is_the_fitted_classifier():
    from sklearn.linear_model import LogisticRegression
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    vectors = rng.normal(size=(200, 8)) + 2*np.eye(8)[labels]
    layer = fit_linear(vectors, labels, 3, C=1e3)
    expected = LogisticRegression(C=1e3, max_iter=2000).fit(vectors, labels).predict_proba(vectors)
    probs = layer(torch.tensor(vectors, dtype=torch.float32)).softmax(1).detach().numpy()
    np.testing.assert_allclose(probs, expected, atol=.02)

def test_weights_are_of_what_knows_more():
    labels = torch.arange(300) % 3
    generator = torch.Generator().manual_seed(0)
    def answers(right): 
        wrong = torch.randint(3, (300,), generator=generator)
        return torch.nn.functional.one_hot(torch.where(torch.rand(300, generator=generator) < right, labels, wrong), 3).float().mul(2).log_softmax(1)
    weights = best_weights([answers(.9), answers(.5), answers(0.)], labels)
    assert weights[0] > weights[1] > weights[2]

def test_the_floor_stands_beside_it(trained, clips):
    table = beside_floor(trained, n_boot=50)
    assert list(table.index) == ['model', 'linear floor', 'majority class', 'chance'] and table.value['chance'] == .5
    with trained.no_bar(): assert abs(trained.validate()[1] - table.value['model']) < .001
    assert 'the' in table.attrs['verdict']
