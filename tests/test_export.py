"Exported models answer as the learner does, in batches of any size, where there is no torch; what cannot be exported leaves nothing."

import json, subprocess, sys
from functools import partial

import numpy as np, pytest, torch
from fastai.data.transforms import parent_label
from fastai.layers import SimpleCNN
from fastai.learner import Learner
from fastai.vision.augment import RandomResizedCrop, Resize
from torch import nn
from torchvision.models import mobilenet_v3_small

ort = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
import fastai_seq.deploy.export as export
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.walkthrough import get_action_dataloaders
from fastai_seq.data.find import get_instances
from fastai_seq.judge.evaluate import evaluate_clips
from fastai_seq.deploy.export import export_onnx, export_program
from fastai_seq.video.extract import avi2frames
from fastai_seq.train.learner import seq_learner
from fastai_seq.models.seqmodel import create_seq_model
from fastai_seq.deploy.predict import predict_video
from fastai_seq.deploy.runtime import OnnxPredictor
from fastai_seq.video.sampling import EveryFrame, RandomClip
from fastai_seq.video.clip import VideoRange
from fastai_seq.video.files import VideoError

cnn = partial(SimpleCNN, [3,4,8])
load = lambda clips, **kwargs: ImageSeqDataLoaders.from_folder(
    clips, **dict(seq_len=4, size=32, bs=4, seed=0, num_workers=0) | kwargs
)

def learner(dls, head='avg', **kwargs):
    learn = seq_learner(dls, cnn, head=head, pretrained=False, **kwargs)
    for m in learn.model.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.normal_()
            m.running_var.uniform_(.5, 2)
    return learn

@pytest.fixture(scope='module')
def made(clips, tmp_path_factory):
    learn = learner(load(clips), 'lstm', hidden_size=8, pool_size=2)
    path = tmp_path_factory.mktemp('o')/'m.onnx'
    return learn, path, export_onnx(learn, path)

def answer(learn, clip):
    with learn.no_bar(), learn.no_logging(): return learn.predict(clip)

def same(learn, predict, clip, tol=1e-4):
    (cls,_,p), said = answer(learn, clip), predict(clip)
    assert np.allclose(list(said.probs.values()), p.tolist(), atol=tol) and list(said.probs) == list(learn.dls.vocab)
    assert said.label == cls

def test_the_predictor_answers_as_the_learner(made, clips, tmp_path):
    learn, path, told = made
    assert told['difference'] < 1e-5 and told['any_length'] and told['bytes'] == path.stat().st_size
    predict = OnnxPredictor(path, threads=1)
    for clip in (*get_instances(clips)[::9], VideoRange(get_instances(clips)[0], .1, .4)): same(learn, predict, clip)
    items = get_instances(clips)[:4]
    with learn.no_bar(): ev = evaluate_clips(learn, items=items, labels=[parent_label(o) for o in items], n_clips=3)
    assert np.allclose([list(predict(o, n_clips=3).probs.values()) for o in items], ev.preds, atol=1e-4)
    folder = avi2frames(items[0], tmp_path)
    same(learn, predict, folder, 1e-2)          # pictures are scaled by PIL, not by torch
    with learn.no_bar(): batch = learn.get_preds(dl=learn.dls.test_dl(items, num_workers=0))[0].numpy()
    assert np.allclose(predict.preds(np.stack([predict.read(o) for o in items])), batch, atol=1e-4)

def test_a_second_export_takes_any_length_too(made, tmp_path):
    assert export_onnx(made[0], tmp_path/'again.onnx')['any_length']

def test_it_needs_neither_torch_nor_fastai(made, clips):
    clip = get_instances(clips)[0]
    code = (
        "import sys\nfor m in"
        " ('torch','torchvision','fastai','timm','onnx','pandas','matplotlib','sklearn'): sys.modules[m] ="
        " None\nfrom fastai_seq.deploy.runtime import OnnxPredictor; import json;"
        f" print(json.dumps(vars(OnnxPredictor({str(made[1])!r})({str(clip)!r}))))"
    )
    said = json.loads(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)
    c,_,p = answer(made[0], clip)
    assert said['label'] == c and np.allclose(list(said['probs'].values()), p.tolist(), atol=1e-4)

readings = {
    'image tuples': lambda c: get_action_dataloaders(
        get_instances(c), bs=4, image_size=40, seq_len=2, num_workers=0
    ),
    'oblong, squished': lambda c: load(
        c, seq_len=3, size=(32, 48), method='squish', sampler=RandomClip(3, 'wrap', fps=9)
    ),
}

@pytest.mark.parametrize('kind', readings)
@pytest.mark.slow
def test_clips_are_read_as_by_the_loaders(kind, clips, tmp_path):
    learn = learner(readings[kind](clips))
    export_onnx(learn, tmp_path/'m.onnx')
    predict = OnnxPredictor(tmp_path/'m.onnx')
    for clip in get_instances(clips)[::12]:
        same(learn, predict, clip, 1e-5)
        x = learn.dls.test_dl([clip], num_workers=0).dataset[0][0]
        if kind != 'image tuples': assert (predict.read(clip) == x.numpy()).all()

@pytest.mark.parametrize('kind', ['several labels', 'numbers'])
@pytest.mark.slow
def test_other_targets(kind, clips, tmp_path):
    files = get_instances(clips)
    labels = (
        [float(i) for i, _ in enumerate(files)]
        if kind == 'numbers'
        else [[f.parent.name, 'clip'][: 1 + i % 2] for i, f in enumerate(files)]
    )
    learn = learner(
        ImageSeqDataLoaders.from_lists(clips, files, labels, seq_len=2, size=32, bs=4, seed=0, num_workers=0)
    )
    export_onnx(learn, tmp_path/'m.onnx')
    predict = OnnxPredictor(tmp_path/'m.onnx')
    said, asked = predict(files[0]), predict_video(learn, files[0], 1)
    assert type(said) is type(asked) and np.allclose(
        list(said.probs.values()), list(asked.probs.values()), rtol=1e-4, atol=1e-4
    )
    cls,_,p = answer(learn, files[0])
    if kind == 'numbers':
        assert list(said.probs.values()) == said.label and np.allclose(
            said.label, p.tolist(), rtol=1e-4, atol=1e-4
        )
    else:
        assert (
            said.label == list(cls)
            and np.allclose(list(said.probs.values()), p.tolist(), atol=1e-4)
            and predict(files[0], thresh=0).label == list(learn.dls.vocab)
        )

@pytest.mark.slow
def test_programs_of_torch(made, clips, tmp_path):
    shift = Learner(load(clips), create_seq_model(mobilenet_v3_small, 2, 'shift', pretrained=False))
    told = export_program(shift, tmp_path/'m.pt2')
    extra = {'fastai_seq.json': ''}
    run = torch.export.load(tmp_path/'m.pt2', extra_files=extra).module()
    x = torch.randint(0, 256, (3,4,3,32,32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(run(x)[1], shift.model.eval()(x / 255), atol=1e-4) and told['difference'] < 1e-5
    assert json.loads(extra['fastai_seq.json'])['answer']['vocab'] == list(shift.dls.vocab)

@pytest.mark.slow
def test_int8_is_smaller_and_told(clips, tmp_path):
    learn = learner(load(clips), 'transformer', dim=128, depth=2)
    whole, small = (export_onnx(learn, tmp_path/f'{i}.onnx', int8=i) for i in (False, True))
    assert small['bytes'] < .45*whole['bytes'] and 0 < small['int8_difference'] < .3 and small['difference'] < 1e-4
    assert np.allclose(
        *(list(OnnxPredictor(o['path'])(get_instances(clips)[0]).probs.values()) for o in (whole, small)),
        atol=0.1,
    )

@pytest.mark.slow
def test_what_cannot_be_exported_leaves_nothing(made, clips, tmp_path, monkeypatch):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(1, 2)
        def forward(self, x):
            m = x.mean((1,2,3,4))
            return self.lin(m[:,None]) if m.sum() > 0 else self.lin(-m[:,None])
    cases = {
        '(?s)Branches cannot be exported .*(symbol|branch|data-dependent|control flow)': Learner(
            load(clips), Branches()
        ),
        'of several lengths': Learner(
            load(clips, sampler=EveryFrame(4)),
            create_seq_model(cnn, 2, 'convgru', pretrained=False, hidden_size=4),
        ),
        'in validation too': Learner(
            load(clips, item_tfms=lambda x: x), create_seq_model(cnn, 2, pretrained=False)
        ),
    }
    for why, learn in cases.items():
        with pytest.raises(ValueError, match=why): export_onnx(learn, tmp_path/'m.onnx')
    monkeypatch.setattr(export, '_session', lambda path: lambda frames: [torch.zeros(len(frames), 2)]*2)
    with pytest.raises(ValueError, match='does not answer as torch does'): export_onnx(made[0], tmp_path/'m.onnx')
    assert list(tmp_path.iterdir()) == []

@pytest.mark.slow
def test_files_that_are_not_known_are_refused(made, clips, tmp_path):
    import onnx
    def change(f):
        model = onnx.load(made[1])
        f(model)
        onnx.save(model, tmp_path/'m.onnx')
        return tmp_path/'m.onnx'
    def edit(**kwargs):
        def f(model):
            prop, = model.metadata_props
            prop.value = json.dumps(json.loads(prop.value) | kwargs)
        return f
    with pytest.raises(ValueError, match='did not write it'):
        OnnxPredictor(change(lambda m: m.ClearField('metadata_props')))
    with pytest.raises(ValueError, match='format 2'): OnnxPredictor(change(edit(format=2)))
    (tmp_path/'n.onnx').write_text('no')
    with pytest.raises(ValueError, match='no ONNX file'): OnnxPredictor(tmp_path/'n.onnx')
    with pytest.raises(FileNotFoundError): OnnxPredictor(tmp_path/'none.onnx')
    (tmp_path/'bad.avi').write_text('no')
    with pytest.raises(VideoError, match='bad.avi'): OnnxPredictor(made[1])(tmp_path/'bad.avi')
    learn = learner(load(clips, size=48, item_tfms=RandomResizedCrop(32)))
    export_onnx(learn, tmp_path/'r.onnx')
    with pytest.raises(ValueError, match='RandomResizedCrop in validation'): OnnxPredictor(tmp_path/'r.onnx')

@pytest.mark.slow
def test_any_length_is_not_said_of_a_burnt_in_window(clips, tmp_path):
    "S3D pools over as many frames as it was traced with: a clip four times as long would be answered wrongly"
    from torchvision.models.video import s3d
    learn = Learner(load(clips, seq_len=6, size=64), create_seq_model(s3d, 2, pretrained=False))
    for m in learn.model.modules():
        if isinstance(m, nn.Conv3d): nn.init.kaiming_normal_(m.weight)
    assert not export_onnx(learn, tmp_path/'m.onnx')['any_length']
