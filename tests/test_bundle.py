"A bundle answers as its learner did, in a fresh process, without the data; what was changed or is not known is refused, and nothing in it is run."

import json, pickle, shutil, subprocess, sys
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest, torch
from fastai.layers import SimpleCNN
from fastai.learner import Learner
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.vision.augment import RandomResizedCrop, Resize, aug_transforms
from torch import nn
from torchvision.models import regnet_y_400mf, squeezenet1_1, video

import fastai_seq.deploy.bundle as bundle
from fastai_seq.deploy.bundle import load_bundle, save_bundle
from fastai_seq.deploy.hub import from_hub, push_to_hub
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.walkthrough import get_action_dataloaders
from fastai_seq.data.find import get_instances
from fastai_seq.judge.evaluate import evaluate_clips
from fastai_seq.models.layers import LearnedPositions
from fastai_seq.train.learner import seq_learner
from fastai_seq.models.heads import AvgHead, head_classes
from fastai_seq.models.seqmodel import SeqModel, create_seq_model
from fastai_seq.walkthrough import SimpleModel, get_action_dataloaders
from fastai_seq.video.sampling import FirstFrames, FrameSampler
from fastai_seq.models.timesformer import MyTimeSformer
from fastai_seq.models.vit_timesformer import timesformer_from_vit
from fastai_seq.video.clip import VideoRange

@pytest.fixture(scope='module')
def dls(clips): return ImageSeqDataLoaders.from_folder(clips, seq_len=4, size=32, bs=4, seed=0, num_workers=0)

@pytest.fixture(scope='module')
def clip(clips): return get_instances(clips)[0]

@pytest.fixture(scope='module')
def saved(dls, tmp_path_factory):
    learn = seq_learner(dls, squeezenet1_1, head='lstm', pretrained=False, hidden_size=8, pool_size=2)
    for m in learn.model.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.running_mean.normal_()
            m.running_var.uniform_(.5, 2)      # buffers count too
    return learn, save_bundle(learn, tmp_path_factory.mktemp('b')/'lstm')

def answer(learn, clip):
    with learn.no_bar(), learn.no_logging(): return learn.predict(clip)

def same(a, b, clip):
    x,y = answer(a, clip), answer(b, clip)
    assert str(x[0]) == str(y[0]) and torch.equal(x[1], y[1]) and torch.equal(x[2], y[2]), (x, y)

tiny = dict(num_classes=2, num_frames=4, image_size=32, patch_size=16, dim=16, depth=1, heads=2, dim_head=8)
def tiny_vit(**kwargs):
    timm = pytest.importorskip('timm')
    return timm.create_model('vit_tiny_patch16_224', img_size=32, depth=2, embed_dim=24, num_heads=2, num_classes=2)
models = {
    **{
        h: partial(
            create_seq_model, regnet_y_400mf if h == 'shift' else squeezenet1_1, 2, h, pretrained=False
        )
        for h in head_classes
    },
    'learned positions': partial(
        create_seq_model, squeezenet1_1, 2, 'transformer', pretrained=False, dim=8, positions=LearnedPositions
    ),
    'arguments of the network': partial(
        create_seq_model,
        partial(squeezenet1_1, num_classes=7, dropout=0.1),
        2,
        'gru',
        pretrained=False,
        bidirectional=True,
        num_rnn_layers=2,
    ),
    'chunk': partial(create_seq_model, squeezenet1_1, 2, 'attention', False, chunk=2, lin_ftrs=[16]),
    'SimpleModel': partial(SimpleModel, squeezenet1_1, 2, False),
    'timm': partial(create_seq_model, 'mobilenetv3_small_050', 2, pretrained=False),
    'video': partial(create_seq_model, video.mc3_18, 2, pretrained=False),
    'MyTimeSformer': partial(MyTimeSformer, **tiny, shift_tokens=True),
    **{
        f'vit, {a}': partial(lambda a: timesformer_from_vit(tiny_vit(), num_frames=4, attention=a), a)
        for a in ('divided', 'joint', 'space')
    },
}

@pytest.mark.parametrize('kind', models)
@pytest.mark.slow
def test_every_model_answers_as_before(kind, dls, clip, tmp_path):
    if kind == 'timm': pytest.importorskip('timm')
    learn = Learner(dls, models[kind]())
    again = load_bundle(save_bundle(learn, tmp_path/'b'))
    same(learn, again, clip)
    assert {f.name for f in (tmp_path/'b').iterdir()} == {'bundle.json', 'model.safetensors', 'README.md'}

def test_a_fresh_process_answers_alike_without_the_data(saved, clip, tmp_path):
    learn, path = saved
    there = tmp_path/'elsewhere'
    shutil.copytree(path, there/'b')
    shutil.copy(clip, there/'clip.avi')
    learn.export(there/'l.pkl')
    code = (
        "from fastai_seq.deploy.bundle import load_bundle; from fastai.learner import load_learner; from"
        " pathlib import Path\nfor l in (load_bundle('b'), load_learner('l.pkl')):\n  with l.no_bar(),"
        " l.no_logging(): c,i,p = l.predict(Path('clip.avi'))\n  print([c, p.double().tolist()])"
    )
    out = subprocess.run(
        [sys.executable, '-c', code], cwd=there, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    c,_,p = answer(learn, clip)
    assert [eval(o) for o in out[-2:]] == [[c, p.double().tolist()]]*2

def targets(clips, kind):
    files = get_instances(clips)
    labels = (
        [float(i) for i, _ in enumerate(files)]
        if kind == 'numbers'
        else [[f.parent.name, 'clip'][: 1 + i % 2] for i, f in enumerate(files)]
    )
    return ImageSeqDataLoaders.from_lists(clips, files, labels, seq_len=2, size=32, bs=4, seed=0, num_workers=0)

@pytest.mark.parametrize('kind', ['several labels', 'numbers'])
@pytest.mark.slow
def test_other_targets(kind, clips, clip, tmp_path):
    dls = targets(clips, kind)
    learn = seq_learner(dls, squeezenet1_1, pretrained=False)
    if kind == 'several labels': learn.loss_func.thresh = .4
    same(learn, again := load_bundle(save_bundle(learn, tmp_path/'b')), clip)
    items = get_instances(clips)[:3]
    labels = [1., 2., 3.] if kind == 'numbers' else [['clip']]*3
    with learn.no_bar(), again.no_bar():
        a, b = (evaluate_clips(l, items=items, labels=labels, n_clips=2) for l in (learn, again))
    assert type(a) is type(b) and (a.preds == b.preds).all() and a.vocab == b.vocab

readings = {
    'image tuples': lambda clips: get_action_dataloaders(
        get_instances(clips), bs=4, image_size=32, seq_len=2, num_workers=0
    ),
    'resized after': lambda clips: ImageSeqDataLoaders.from_folder(
        clips, seq_len=2, size=48, bs=4, item_tfms=RandomResizedCrop(32), num_workers=0
    ),
    'padded': lambda clips: ImageSeqDataLoaders.from_folder(
        clips, seq_len=2, size=48, bs=4, item_tfms=Resize((32, 40), 'pad', pad_mode='zeros'), num_workers=0
    ),
    'oblong, squished': lambda clips: ImageSeqDataLoaders.from_folder(
        clips, seq_len=2, size=(32, 48), method='squish', bs=4, num_workers=0
    ),
    'fps': lambda clips: ImageSeqDataLoaders.from_folder(
        clips, size=32, sampler=FirstFrames(3, 'wrap', fps=7.5), bs=4, num_workers=0
    ),
}

@pytest.mark.parametrize('kind', readings)
@pytest.mark.slow
def test_clips_are_read_as_before(kind, clips, clip, tmp_path):
    learn = seq_learner(
        readings[kind](clips), squeezenet1_1, pretrained=False, loss_func=LabelSmoothingCrossEntropyFlat()
    )
    again = load_bundle(save_bundle(learn, tmp_path/'b'))
    same(learn, again, clip)
    items = get_instances(clips)[:3]
    with learn.no_bar(), again.no_bar():
        assert torch.equal(*(l.get_preds(dl=l.dls.test_dl(items, num_workers=0))[0] for l in (learn, again)))
    if kind != 'image tuples': same(learn, again, VideoRange(clip, .1, .5))

def test_what_acts_in_training_only_is_left_out(clips, clip, tmp_path):
    dls = ImageSeqDataLoaders.from_folder(clips, seq_len=2, size=32, bs=4, batch_tfms=aug_transforms(), num_workers=0)
    learn = seq_learner(dls, squeezenet1_1, pretrained=False)
    a,b = (answer(l, clip)[2] for l in (learn, load_bundle(save_bundle(learn, tmp_path/'b'))))
    assert torch.allclose(a, b, atol=1e-5)      # fastai warps by nothing, which rounds

class Mine(AvgHead): pass
class Sampler(FrameSampler):
    def pick(self, n, draw, rate): return list(range(self.seq_len))
class Blind(nn.Module):
    def forward(self, x): return x.mean((1,2,3,4))[:,None].repeat(1,2)

def cannot(dls, clips):
    load = partial(ImageSeqDataLoaders.from_folder, clips, seq_len=2, size=32, bs=4, num_workers=0)
    sq = partial(create_seq_model, squeezenet1_1, 2, pretrained=False)
    yield Learner(dls, Blind()), 'Blind cannot be told'
    yield (
        Learner(dls, create_seq_model(partial(SimpleCNN, [3, 4]), 2, pretrained=False)),
        'of no library: pass it, arch=',
    )
    yield Learner(dls, sq(head=Mine)), 'class of its own: pass it, head='
    yield Learner(dls, SeqModel(nn.Conv2d(3,4,3), AvgHead(4, 2))), 'encoder is a Conv2d'
    changed = sq()
    changed.head.classify[-1] = nn.Sequential(changed.head.classify[-1], nn.Tanh())
    yield Learner(dls, changed), 'damaged'
    deaf = sq()
    deaf.head.over_time.how = 'max'
    yield Learner(dls, deaf), 'answers otherwise'
    yield Learner(dls, sq(), loss_func=nn.CrossEntropyLoss()), 'loss_func=CrossEntropyLoss()'
    yield Learner(load(sampler=Sampler(2)), sq()), 'no sampler of the library'
    yield Learner(load(item_tfms=lambda x: x), sq()), 'can hold Resize'

def test_what_cannot_be_told_leaves_nothing(dls, clips, tmp_path):
    for learn, why in cannot(dls, clips):
        with pytest.raises(ValueError, match='(?s)' + why.replace('(', r'\(').replace(')', r'\)')):
            save_bundle(learn, tmp_path / 'b')
        assert list(tmp_path.iterdir()) == [], why

def test_own_network_and_head_are_passed_by_hand(dls, clip, tmp_path):
    cnn = partial(SimpleCNN, [3,8])
    learn = Learner(dls, create_seq_model(cnn, 2, Mine, pretrained=False, pool_size=2))
    path = save_bundle(learn, tmp_path/'b', arch=cnn, head=Mine)
    same(learn, load_bundle(path, arch=cnn, head=Mine), clip)
    for wrong in ({}, dict(arch=cnn), dict(head=Mine)):
        with pytest.raises(ValueError, match='pass it'): load_bundle(path, **wrong)
    with pytest.raises(ValueError, match='damaged'): load_bundle(path, arch=partial(SimpleCNN, [3,9]), head=Mine)

class Evil:
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return Path.touch, (Path(self.path),)

def test_tampered_files_are_refused_and_nothing_is_run(saved, tmp_path):
    path, ran = tmp_path/'b', tmp_path/'ran'
    def edit(**kwargs):     # as one would who knows of the digest
        told = json.loads((path/'bundle.json').read_text()) | kwargs
        (path/'bundle.json').write_text(json.dumps(told | dict(digest=bundle._digest(told))))
    def weights(data, fix=False):
        (path/'model.safetensors').write_bytes(data)
        if fix: edit(sha256=sha256(data).hexdigest())
    evil, good = pickle.dumps(Evil(ran)), (saved[1]/'model.safetensors').read_bytes()
    def arch(**kwargs):
        edit(
            model=json.loads((path / 'bundle.json').read_text())['model']
            | dict(net=dict(library='torchvision', name='resnet18', args={}) | kwargs)
        )

    cases = {
        'not the file that was saved': [
            lambda: weights(evil),
            lambda: weights(good[:-1]),
            lambda: weights(good[:-1] + bytes([good[-1] ^ 1])),
            lambda: edit(sha256=None),
        ],
        'damaged': [
            lambda: weights(evil, True),
            lambda: weights(b'', True),
            lambda: (path / 'bundle.json').write_bytes(evil),
            lambda: (path / 'bundle.json').write_text('{'),
            lambda: edit(model=None),
            lambda: edit(clips={}),
            lambda: edit(answer=[]),
            lambda: arch(),
        ],
        'format': [lambda: edit(format=3), lambda: edit(format=None)],
        'no bundle of this library': [lambda: (path / 'bundle.json').write_text('[]')],
        'no network': [lambda: arch(name='os.system')],
        'may name no others': [
            lambda: arch(args=dict(weights='DEFAULT')),
            lambda: arch(args=dict(checkpoint_path=str(tmp_path / 'e.pth'))),
        ],
        'no kind of model': [lambda: edit(model=dict(kind='Learner'))],
    }
    for why, changes in cases.items():
        for change in changes:
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(saved[1], path)
            change()
            with pytest.raises(ValueError, match=why): load_bundle(path)
            assert not ran.exists(), why
    (path/'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='is not there'): load_bundle(path)
    (tmp_path/'l.pkl').write_bytes(evil)
    with pytest.raises(ValueError, match='is a file'): load_bundle(tmp_path/'l.pkl')
    assert not ran.exists()
    pickle.loads(evil)
    assert ran.exists()      # it would have

def test_written_whole_or_not_at_all(saved, tmp_path, monkeypatch):
    learn, path = saved[0], tmp_path/'b'
    save_bundle(learn, path, notes='the first')
    def dies(*args): raise KeyboardInterrupt
    monkeypatch.setattr(bundle, '_check_same', dies)
    with pytest.raises(KeyboardInterrupt): save_bundle(learn, path, notes='the second')
    assert 'the first' in (path/'README.md').read_text() and [f.name for f in tmp_path.iterdir()] == ['b']
    (tmp_path/'photos').mkdir()
    (tmp_path/'photos/cat.jpg').touch()
    with pytest.raises(ValueError, match='is no bundle; choose another'): save_bundle(learn, tmp_path/'photos')
    assert (tmp_path/'photos/cat.jpg').exists()

@pytest.mark.slow
def test_card(saved, clips, tmp_path):
    with saved[0].no_bar(): ev = evaluate_clips(saved[0], n_clips=1)
    text = (
        save_bundle(saved[0], tmp_path / 'Left or right', license='mit', notes='For tests.', metrics=ev)
        / 'README.md'
    ).read_text()
    for said in (
        'license: mit',
        '# Left or right',
        'For tests.',
        '- accuracy: ',
        '95% interval',
        'UniformFrames(seq_len=4',
        '32x32',
        'MoveLeft',
        'LSTMHead',
    ):
        assert said in text, said
    assert 'top: 0.9' in (save_bundle(saved[0], tmp_path/'b', metrics=dict(top=.9))/'README.md').read_text()

def test_training_goes_on_from_it(saved, dls):
    again = load_bundle(saved[1])
    learn = Learner(dls, again.model)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    was = load_bundle(saved[1]).model.state_dict()
    assert all((v != was[k]).any() for k,v in learn.model.named_parameters() if k.startswith('head.rnn.weight'))

def test_hub(saved, clip, tmp_path, monkeypatch):
    "The network is replaced at its edge by a folder"
    hub = pytest.importorskip('huggingface_hub')
    made = []
    class Api:
        def __init__(self, token=None): assert token == 't'
        def create_repo(self, repo_id, private, exist_ok): made.append((repo_id, private))
        def upload_folder(self, repo_id, folder_path):
            shutil.copytree(folder_path, tmp_path/repo_id)
            return f'https://hub/{repo_id}/commit/1'
    def download(repo_id, revision, token, allow_patterns):
        assert revision == 'v1' and set(allow_patterns) == {'bundle.json', 'model.safetensors', 'README.md'}
        return str(tmp_path/repo_id)
    monkeypatch.setattr(hub, 'HfApi', Api)
    monkeypatch.setattr(hub, 'snapshot_download', download)
    assert push_to_hub(
        saved[0], 'me/motion', token='t', license='mit'
    ) == 'https://hub/me/motion/commit/1' and made == [('me/motion', False)]
    assert '# motion' in (tmp_path/'me/motion/README.md').read_text()
    same(saved[0], from_hub('me/motion', revision='v1'), clip)

def test_what_lies_beside_a_bundle_is_not_lost_and_what_it_says_cannot_be_changed_unseen(saved, tmp_path):
    learn = saved[0]
    path = save_bundle(learn, tmp_path/'b')
    told = json.loads((path/'bundle.json').read_text())
    told['answer']['vocab'] = told['answer']['vocab'][::-1]
    (path/'bundle.json').write_text(json.dumps(told))
    with pytest.raises(ValueError, match='bundle.json is not the file that was saved'): load_bundle(path)
    (path/'results.csv').write_text('mine')
    with pytest.raises(ValueError, match='results.csv'): save_bundle(learn, path)
    assert (path/'results.csv').read_text() == 'mine'
    with pytest.raises(ValueError, match='one line'): save_bundle(learn, tmp_path/'c', license='mit\nfoo: bar')
