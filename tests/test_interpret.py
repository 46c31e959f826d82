"Interpretation: answers as in validation, evidence that lies where it is known to be, sums that agree with long ways, and models left as they were."

import copy, re, subprocess, shutil
from functools import partial

import matplotlib, numpy as np, pandas as pd, pytest, torch
from fastai.data.all import MultiCategoryBlock, RegressionBlock
from fastai.layers import SimpleCNN
from fastai.vision.augment import RandomResizedCrop
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy
from matplotlib import pyplot as plt
from PIL import Image
from timesformer_pytorch import timesformer_pytorch as tsf
from torch import nn
from torchvision.models.video import mc3_18, mvit_v2_s, r3d_18, s3d, swin3d_t

from fastai_seq.judge import shown as room
from fastai_seq.judge.known import flash_clips
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.walkthrough import get_action_dataloaders
from fastai_seq.data.find import get_instances
from fastai_seq.data.datasets import motion_clips
from fastai_seq.judge.evidence import evidence
from fastai_seq.judge.evidence_view import SpaceEvidence, TimeEvidence
from fastai_seq.judge.grad_cam import grad_cam
from fastai_seq.judge.interpret import SeqInterpretation
from fastai_seq.judge.rollout import attention_rollout
from fastai_seq.train.learner import seq_learner
from fastai_seq.models.heads import head_classes
from fastai_seq.models.seqmodel import SeqModel
from fastai_seq.walkthrough import SimpleModel, get_action_dataloaders
from fastai_seq.video.sampling import EveryFrame, RandomClip
from fastai_seq.models.timesformer import MyTimeSformer
from fastai_seq.models.vit_timesformer import timesformer_from_vit
from fastai_seq.video.files import VideoError, write_video
from fastai_seq.video.read import read_frames
from fastai_seq.models.videonets import VideoNet

matplotlib.use('agg')
tiny = partial(SimpleCNN, [3, 8, 16, 32])
T, SIDE = 8, 32

def flashes(path):
    "Clips in which an F is seen in three of the frames only: those frames, and its pixels `(T,SIDE,SIDE)`, of each clip"
    truth = {}
    for f, (when, mask) in flash_clips(path, n_groups=8, n_frames=T, side=SIDE).items():
        pixels = np.zeros((T, SIDE, SIDE), bool)
        pixels[when] = mask
        truth[f] = when, pixels
    return truth

@pytest.fixture(scope='module')
def flash(tmp_path_factory):
    path = tmp_path_factory.mktemp('flash')
    truth = flashes(path)
    return ImageSeqDataLoaders.from_folder(path, seq_len=T, size=SIDE, bs=8, seed=0, num_workers=0), truth

def fit(learn, epochs, lr=5e-3):
    learn.remove_cb(learn.progress)
    for _ in range(3):              # another processor or release may need another round
        with learn.no_logging(): learn.fit_one_cycle(epochs, lr)
        if learn.final_record[-1] > .85: break
    assert learn.final_record[-1] > .85, 'it has not learnt enough for its evidence to mean anything'
    return learn

@pytest.fixture(scope='module')
def trained(flash):
    "Learners by name, each trained once"
    made = {}
    def get(name):
        if name not in made:
            torch.manual_seed(0)
            if name == 'timesformer':
                made[name] = fit(
                    Learner(
                        flash[0],
                        MyTimeSformer(
                            dim=32,
                            image_size=SIDE,
                            patch_size=8,
                            num_frames=T,
                            num_classes=2,
                            depth=2,
                            heads=2,
                            dim_head=16,
                        ),
                        metrics=accuracy,
                    ),
                    10,
                    3e-3,
                )
            else:
                made[name] = fit(
                    seq_learner(
                        flash[0],
                        tiny,
                        head=name,
                        pretrained=False,
                        metrics=accuracy,
                        **(dict(hidden_size=32) if name == 'gru' else {}),
                    ),
                    10,
                )
        return made[name]
    return get

def untrained(dls, head='avg', seed=0, **kwargs):
    torch.manual_seed(seed)
    learn = seq_learner(dls, tiny, head=head, pretrained=False, **kwargs)
    learn.remove_cb(learn.progress)
    return learn

def with_model(dls, model):
    learn = Learner(dls, model)
    learn.remove_cb(learn.progress)
    return learn

# --- evidence lies where it is known to be ---

def shown(flash): return [(f, *flash[1][f]) for f in flash[0].valid.items]

@pytest.mark.slow
def test_the_running_prediction_rises_where_the_letter_is(trained, flash):
    rises = []
    for f, when, _ in shown(flash):
        v = evidence(trained('gru'), f).values
        assert v.shape == (T,) and v.min() >= 0 and v.max() <= 1
        if when[0] > 0:
            rises.append(
                v[when[-1]] - v[when[0] - 1] > 0.75 * (v.max() - v.min())
                or v[when].max() > v[: when[0]].max()
            )
    assert np.mean(rises) > .7

@pytest.mark.parametrize('head', ['gru', 'attention', 'timesformer'])
@pytest.mark.parametrize('fill', ['mean', 'neighbours'])
@pytest.mark.slow
def test_occlusion_misses_the_frames_that_tell(trained, flash, head, fill):
    "Of all that the score falls, most falls there; what all three show is missed where all of it is taken away"
    learn, found = trained(head), []
    for f, when, _ in shown(flash):
        v = evidence(learn, f, target=f.parent.name, how='occlusion', window=3, fill=fill).values.clip(min=0)
        found.append(when[0] <= v.argmax() <= when[-1])
    assert np.mean(found) > .75

def test_attention_is_on_the_frames_that_tell(trained, flash):
    "For one of the two classes at least: the other may be told by what is not seen, and then all frames tell alike"
    found = {c: [] for c in flash[0].vocab}
    for f, when, _ in shown(flash):
        v = evidence(trained('attention'), f).values
        assert np.isclose(v.sum(), 1, atol=1e-5)
        found[f.parent.name].append(set(v.argsort()[-3:]) == set(when))
    assert max(np.mean(o) for o in found.values()) > .8

def energy(e, mask): return e.heat[mask].sum()/e.heat.sum()/mask.mean()

@pytest.mark.parametrize('head,least', [('attention', 3), ('gru', 1.5)])
def test_grad_cam_lies_on_the_letter(trained, flash, head, least):
    "Its share of the heat is several times its share of the pixels; of a class that nothing speaks for, it is less"
    own = [energy(grad_cam(trained(head), f, f.parent.name), mask) for f, _, mask in shown(flash)]
    assert np.median(own) > least and np.mean(np.array(own) > 1) > .7

def test_rollout_lies_on_the_letter(trained, flash):
    assert np.median([energy(attention_rollout(trained('timesformer'), f), mask) for f, _, mask in shown(flash)]) > 3

@pytest.mark.slow
def test_grad_cam_for_motion_lies_on_what_moves(tmp_path):
    "The direction is the class, so no single frame tells it. Where the F is: what the median over time is not"
    n, path = 6, motion_clips(
        tmp_path / 'clips', n_classes=2, n_groups=16, clips_per_group=5, n_frames=6, size=(SIDE, SIDE)
    )
    dls = ImageSeqDataLoaders.from_folder(path, seq_len=n, size=SIDE, bs=16, seed=0, num_workers=0)
    torch.manual_seed(0)
    learn = fit(seq_learner(dls, tiny, head='gru', pretrained=False, hidden_size=64, pool_size=4, metrics=accuracy), 6)
    def mask(f):
        frames = read_frames(f, range(n)).astype(int)
        return np.abs(frames - np.median(frames, 0)).max(-1) > 40
    cams = [grad_cam(learn, f, f.parent.name) for f in list(dls.valid.items)[::3]]
    shares = [energy(c, mask(f)) for c,f in zip(cams, list(dls.valid.items)[::3])]
    assert {c.what for c in cams} == {'HiResCAM'} and np.median(shares) > 1.6 and np.mean(np.array(shares) > 1) > .7

# --- sums that agree with long ways ---

@pytest.mark.parametrize('head', ['mean', 'avg', 'max', 'attention', 'lstm', 'gru', 'convlstm', 'convgru', 'transformer', 'both ways'])
def test_running_is_the_answer_for_the_clip_cut_off(flash, head):
    dls, f = flash[0], flash[0].valid.items[0]
    learn = untrained(
        dls,
        *(('lstm',) if head == 'both ways' else (head,)),
        **(dict(bidirectional=True) if head == 'both ways' else {}),
    )
    with torch.no_grad(): [p.add_(torch.randn_like(p)*.1) for p in learn.model.head.parameters()]
    x = learn.dls.test_dl([f]).one_batch()[0]
    with torch.no_grad(): by_hand = [learn.model.eval()(x[:, :t+1]).softmax(1)[0, 1].item() for t in range(T)]
    v = evidence(learn, f, 'Red', how='running').values
    assert (
        np.allclose(v, by_hand, atol=1e-5)
        and np.isclose(v[-1], learn.predict(f)[2][1], atol=1e-5)
        and len(np.unique(v)) > 2
    )

@pytest.mark.parametrize('window', [None, 1, 3])
@pytest.mark.parametrize('fill', ['mean', 'neighbours'])
@pytest.mark.parametrize('head', ['gru', 'shift'])
@pytest.mark.slow
def test_occlusion_is_the_fall_of_the_score(flash, window, fill, head):
    "The whole model on clips that are put together by hand; a temporal shift sees its neighbours too"
    dls, f = flash[0], flash[0].valid.items[1]
    if head == 'shift':
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.downsample = nn.Conv2d(8, 8, 3, padding=1), nn.Identity()
            def forward(self, x): return x + self.conv(x)
        arch = lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, 4), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        )
        torch.manual_seed(0)
        learn = seq_learner(dls, arch, head='shift', pretrained=False)
    else:
        learn = untrained(dls, head)
    with torch.no_grad(): [p.add_(torch.randn_like(p)*.1) for p in learn.model.head.parameters()]
    x, model, w = (
        torch.as_tensor(learn.dls.test_dl([f]).one_batch()[0]).as_subclass(torch.Tensor)[0],
        learn.model.eval(),
        window or 1,
    )
    def odds(x):
        with torch.no_grad(): z = model(x[None])[0]
        return (z[1] - z[0]).item()
    falls = {t: [] for t in range(T)}
    for s in range(T-w+1):
        y = x.clone()
        for i in range(s, s+w):
            before, after = x[s-1] if s else x[s+w], x[s+w] if s+w < T else x[s-1]
            y[i] = x.mean(0) if fill == 'mean' else before if i-s < (w+1)//2 else after
        for i in range(s, s+w): falls[i].append(odds(x) - odds(y))
    v = evidence(learn, f, 'Red', how='occlusion', window=window, fill=fill).values
    assert np.allclose(v, [np.mean(falls[t]) for t in range(T)], atol=1e-4) and np.abs(v).max() > 1e-3

def test_occlusion_encodes_each_frame_once(flash):
    learn, seen = untrained(flash[0], 'gru'), []
    learn.model.encoder.register_forward_hook(lambda m, a, o: seen.append(len(a[0])))
    evidence(learn, flash[0].valid.items[0], how='occlusion')
    assert seen == [T, T+1]      # the answer; and the frames with their mean

@pytest.mark.parametrize('shared', [True, False])
def test_grad_cam_of_a_linear_head_is_known(flash, shared):
    "The classifier's weights times the maps: features averaged over places, one linear layer"
    learn = untrained(flash[0], 'avg', lin_ftrs=[], bn=True)
    f, (lin,) = flash[0].valid.items[0], [m for m in learn.model.head.classify.modules() if isinstance(m, nn.Linear)]
    x = learn.dls.test_dl([f]).one_batch()[0]
    with torch.no_grad(): maps = learn.model.eval().features(x)[0]
    norm = next((m for m in learn.model.head.classify.modules() if isinstance(m, nn.BatchNorm1d)), None)
    w = (lin.weight[1] - lin.weight[0])*(norm.weight/(norm.running_var + norm.eps).sqrt() if norm else 1)
    want = torch.einsum('tfhw,f->thw', maps, w.detach()).relu()
    cam = grad_cam(learn, f, 'Red')
    assert (
        np.allclose(cam.values, want / want.max(), atol=1e-5)
        and cam.values.shape == tuple(maps[:, 0].shape)
        and cam.values.max() == 1
    )
    assert np.allclose(
        grad_cam(learn, f, 'Red', hires=True).values, cam.values, atol=1e-5
    )  # the gradient is the same at each place
    other = grad_cam(learn, f, 'Blue').values
    assert not (
        (other > 1e-6) & (cam.values > 1e-6)
    ).any()  # two classes: what speaks for one speaks against the other

@pytest.mark.parametrize('arch,size', [(r3d_18, 32), (s3d, 32), (swin3d_t, 32)])
@pytest.mark.slow
def test_grad_cam_of_video_networks(tmp_path, arch, size):
    "Frozen or not; of the residual network it is the classifier's weights times the last maps"
    dls = ImageSeqDataLoaders.from_folder(
        motion_clips(tmp_path, n_classes=2, n_groups=4, clips_per_group=1, n_frames=8, size=(32, 32)),
        seq_len=8,
        size=size,
        bs=2,
        seed=0,
        num_workers=0,
    )
    torch.manual_seed(0)
    learn, f = with_model(dls, VideoNet(arch, 2, False)), dls.valid.items[0]
    for p in learn.model.parameters(): p.requires_grad_(False)
    cam = grad_cam(learn, f, 1)
    assert cam.values.max() in (0, 1) and cam.heat.shape == (8, size, size) and np.isfinite(cam.heat).all()
    if arch is not r3d_18: return
    net, kept = learn.model.net.eval(), []
    h = net.layer4.register_forward_hook(lambda m, a, o: kept.append(o))
    with torch.no_grad(): learn.model(learn.dls.test_dl([f]).one_batch()[0])
    h.remove()
    want = torch.einsum('fthw,f->thw', kept[0][0], net.fc.weight[1] - net.fc.weight[0]).relu()
    assert np.allclose(cam.values, want/want.max().clamp(min=1e-12), atol=1e-4)

def by_hand(model, x, layers, row):
    "Roll-out with whole matrices: `layers` gives the matrices `(n,n)` in the order they are applied"
    for a in reversed(layers): row = row @ (a + torch.eye(len(a)))/2
    return row

@pytest.mark.parametrize('rotary', [True, False])
def test_rollout_of_mytimesformer_is_a_product_of_whole_matrices(flash, monkeypatch, rotary):
    "The weights are had from timesformer-pytorch's own forward pass, by no way of ours"
    torch.manual_seed(0)
    model = MyTimeSformer(
        dim=16,
        image_size=SIDE,
        patch_size=8,
        num_frames=T,
        num_classes=2,
        depth=3,
        heads=2,
        dim_head=8,
        rotary_emb=rotary,
    )
    with torch.no_grad(): [l.fn.to_qkv.weight.mul_(4) for layer in model.layers for l in layer[:2]]
    learn, f, n, seen = with_model(flash[0], model), flash[0].valid.items[0], 16, []
    x = torch.as_tensor(learn.dls.test_dl([f]).one_batch()[0]).as_subclass(torch.Tensor)
    monkeypatch.setattr(
        tsf,
        'attn',
        lambda q, k, v, mask=None, f=tsf.attn: (seen.append((q @ k.mT).softmax(-1)), f(q, k, v, mask=mask))[
            1
        ],
    )
    with torch.no_grad(): tsf.TimeSformer.forward(model.eval(), x)
    layers = []
    for i, (cls, part) in enumerate(zip(seen[::2], seen[1::2])):
        a, time = torch.zeros(1+T*n, 1+T*n), i % 2 == 0
        a[0] = cls.mean(0)[0]
        part = part.unflatten(0, (2, -1)).mean(0)                   # (groups, S, 1+S)
        place = torch.arange(T*n).view(T, n) + 1
        for g, own in enumerate(place.T if time else place):
            for s, i_ in enumerate(own): a[i_, 0], a[i_, own] = part[g, s, 0], part[g, s, 1:]
        layers.append(a)
    assert len(layers) == 6 and all(torch.allclose(a.sum(1), torch.ones(len(a)), atol=1e-5) for a in layers)
    want = by_hand(model, x, layers, torch.eye(1+T*n)[0])
    got = attention_rollout(learn, f).values
    assert (
        got.shape == (T, 4, 4)
        and np.allclose(got.ravel(), want[1:], atol=1e-6)
        and np.isclose(got.sum(), 1 - want[0], atol=1e-5)
        and np.ptp(got) > 1e-3
    )
    assert np.allclose(evidence(learn, f, how='attention').values, got.sum((1, 2)))

@pytest.mark.parametrize('attention', ['divided', 'joint', 'space'])
@pytest.mark.parametrize('pool', ['token', 'avg'])
def test_rollout_of_vit_is_a_product_of_whole_matrices(flash, attention, pool):
    "The weights are had from timm's own slow attention, where it drops some out"
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    vit = timm.models.vision_transformer.VisionTransformer(
        SIDE, 8, embed_dim=24, depth=2, num_heads=2, num_classes=2, global_pool=pool, reg_tokens=1
    )
    vit.pretrained_cfg = {}
    model = timesformer_from_vit(vit, 2, T, attention)
    with torch.no_grad(): [p.mul_(8) for k, p in model.named_parameters() if 'qkv.weight' in k]
    if attention == 'divided':
        with torch.no_grad(): [t.attn.proj.weight.normal_() for t in model.time_blocks]
    learn, f, seen = with_model(flash[0], model), flash[0].valid.items[0], {}
    got = attention_rollout(learn, f).values
    x = torch.as_tensor(learn.dls.test_dl([f]).one_batch()[0]).as_subclass(torch.Tensor)
    attns = [b.attn for b in [*vit.blocks, *getattr(model, 'time_blocks', [])]]
    for a in attns:
        a.fused_attn = False
        a.attn_drop.register_forward_hook(lambda m, args, out, a=a: seen.__setitem__(a, args[0].mean(1)))
    with torch.no_grad(): model.eval()(x)
    n, P, layers = 16, vit.num_prefix_tokens, []
    N = P + T*n
    place, first = torch.arange(T*n).view(T, n) + P, torch.arange(P)
    for i, block in enumerate(vit.blocks):
        w = seen[block.attn]
        if attention == 'joint':
            layers.append(w[0])
            continue
        if attention == 'space': continue
        time, space = torch.eye(N), torch.zeros(N, N)
        for k in range(n): time[place[:, k][:, None], place[:, k]] = seen[model.time_blocks[i].attn][k]
        for t in range(T):
            own = torch.cat([first, place[t]])
            space[first[:, None], own] += w[t][:P]/T
            space[place[t][:, None], own] = w[t][P:]
        layers += [time, space]
    if attention == 'space':      # frames apart, their mean at the end
        start = torch.eye(P+n)[0] if pool == 'token' else torch.cat([torch.zeros(P), torch.full((n,), 1/n)])
        want = torch.stack([by_hand(model, x, [seen[b.attn][t] for b in vit.blocks], start)[P:]/T for t in range(T)])
    else:
        want = by_hand(
            model,
            x,
            layers,
            (
                torch.eye(N)[0]
                if pool == 'token'
                else torch.cat([torch.zeros(P), torch.full((T * n,), 1 / T / n)])
            ),
        )[P:]
    assert got.shape == (T, 4, 4) and np.allclose(got.ravel(), want.ravel(), atol=1e-6) and np.ptp(got) > 1e-4

def test_rollout_of_a_transformer_head_is_over_time(flash):
    "It starts from the mean of the frames; where all keys are alike it stays there, and where all look at one frame it goes there"
    learn, f = untrained(flash[0], 'transformer', dim=16, depth=2), flash[0].valid.items[0]
    layers = learn.model.head.layers.layers.layers
    with torch.no_grad():
        for l in layers: l.self_attn.in_proj_weight[:32] *= 6
    free = attention_rollout(learn, f)
    assert (
        isinstance(free, TimeEvidence)
        and free.values.shape == (T,)
        and np.isclose(free.values.sum(), 1, atol=1e-5)
        and np.ptp(free.values) > 1e-3
    )
    with torch.no_grad(): [l.self_attn.in_proj_weight[:32].zero_() for l in layers]
    assert np.allclose(attention_rollout(learn, f).values, 1/T, atol=1e-6)
    with torch.no_grad():       # the weights are torch's own
        l, h = layers[0].eval(), torch.randn(1, T, 16)
        l.self_attn.in_proj_weight[:32].normal_()
        y = l.norm1(h)
        full = l.self_attn(y, y, y, average_attn_weights=False)[1].mean(1)[0]
        assert torch.allclose(l.self_attn(y, y, y, average_attn_weights=True)[1][0], full, atol=1e-6)

# --- nothing is left behind ---

def state(model):
    hooks = [
        len(getattr(m, a))
        for m in model.modules()
        for a in ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks')
    ]
    return (
        [m.training for m in model.modules()],
        hooks,
        [sorted(vars(m)) for m in model.modules()],
        [(p.requires_grad, p.grad is not None and p.grad.sum().item()) for p in model.parameters()],
        [v.clone() for v in model.state_dict().values()],
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        np.random.get_state()[1],
    )


def same(a, b):
    return all(
        (
            torch.equal(u, v)
            if isinstance(u, torch.Tensor)
            else (
                np.array_equal(u, v)
                if isinstance(u, np.ndarray)
                else same(u, v) if isinstance(u, list) else u == v
            )
        )
        for u, v in zip(a, b)
    ) and len(a) == len(b)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('make,calls', [
    (lambda: SeqModel, ['evidence', 'occlusion', 'cam']), (lambda: MyTimeSformer(dim=16, image_size=SIDE, patch_size=16, num_frames=T, num_classes=2, depth=1, heads=2, dim_head=8), ['evidence', 'rollout']),
    (lambda: VideoNet(mc3_18, 2, False), ['evidence', 'cam'])], ids=['seq', 'timesformer', 'videonet'])
@pytest.mark.slow
def test_a_model_is_as_it_was(flash, make, calls, training):
    "Modes of each module, hooks, attributes, gradients, weights, running statistics, generators; after an error too"
    model = make()
    learn = untrained(flash[0], 'gru') if model is SeqModel else with_model(flash[0], model)
    learn.model.train(training)
    for m in list(learn.model.modules())[::5]: m.training = not training           # some layers are frozen by hand
    for i, p in enumerate(learn.model.parameters()):
        p.requires_grad_(i % 3 > 0)
        if i % 3 == 1: p.grad = torch.full_like(p, .5)
    f, before = flash[0].valid.items[0], state(learn.model)
    ways = dict(
        evidence=evidence,
        occlusion=partial(evidence, how='occlusion'),
        cam=grad_cam,
        rollout=attention_rollout,
    )
    for c in calls:
        ways[c](learn, f)
        assert same(state(learn.model), before), c
    def broken(*args): raise KeyboardInterrupt
    for m in list(learn.model.children())[-1:]: h = m.register_forward_hook(broken)
    if not isinstance(model, MyTimeSformer): before = state(learn.model)
    for c in calls:
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            ways[c](learn, f)
            raise RuntimeError
        assert isinstance(model, MyTimeSformer) or same(state(learn.model), before), c

def test_an_error_in_the_middle_leaves_no_hook(flash, monkeypatch):
    learn = with_model(
        flash[0],
        MyTimeSformer(
            dim=16, image_size=SIDE, patch_size=16, num_frames=T, num_classes=2, depth=1, heads=2, dim_head=8
        ),
    )
    video, f = with_model(flash[0], VideoNet(mc3_18, 2, False)), flash[0].valid.items[0]
    for l, see, at in ((learn, attention_rollout, 'patch_shares'), (video, grad_cam, 'feature_maps')):
        before, calls = state(l.model), []
        def forward(x, real=l.model.forward, calls=calls):
            calls.append(1)
            if len(calls) > 1: raise ZeroDivisionError
            return real(x)
        monkeypatch.setattr(l.model, 'forward', forward)
        with pytest.raises(ZeroDivisionError): see(l, f)
        monkeypatch.undo()
        assert same(state(l.model), before)

# --- the learner's answers ---

def test_answers_are_those_of_validation(trained, flash):
    learn = trained('gru')
    p, y, l = learn.get_preds(with_loss=True)
    i = SeqInterpretation.from_learner(learn)
    assert (
        np.allclose(i.evaluation.preds, p)
        and np.array_equal(i.evaluation.targets, y)
        and torch.allclose(i.losses, l)
        and i.items == list(flash[0].valid.items)
    )
    assert np.array_equal(i.confusion_matrix(), i.evaluation.confusion) and i.confusion_matrix().sum() == len(y)
    losses, order = i.top_losses(3)
    assert losses.tolist() == sorted(l.tolist())[::-1][:3] and order[0] == l.argmax()
    g = i.per_group()
    assert (
        g.clips.sum() == len(y)
        and np.isclose((g.accuracy * g.clips).sum() / len(y), i.evaluation.accuracy)
        and g.accuracy.is_monotonic_increasing
    )
    assert np.isclose((g.loss*g.clips).sum()/len(y), l.mean(), atol=1e-5)

def test_confusions_of_a_network_that_says_one_class(flash, capsys):
    learn = untrained(flash[0])
    with torch.no_grad():
        learn.model.head.classify[-1].weight.zero_()
        (
            learn.model.head.classify[-1].bias.copy_(torch.tensor([0.0, 1.0]))
            if learn.model.head.classify[-1].bias is not None
            else None
        )
    i = SeqInterpretation.from_learner(learn)
    said = int(i.evaluation.predicted[0])
    assert (
        len(i.most_confused()) == 1
        and i.most_confused()[0][:2] == (i.vocab[1 - said], i.vocab[said])
        and i.most_confused()[0][2] == (i.evaluation.targets != said).sum()
    )
    assert list(map(type, i.most_confused()[0])) == [str, str, int]
    assert np.array_equal(SeqInterpretation.from_learner(learn, list(i.items)).evaluation.preds, i.evaluation.preds)
    i.print_classification_report()
    assert 'precision' in capsys.readouterr().out and i.per_group().accuracy.iloc[0] == 0

def titles(): return [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]

def test_top_losses_are_titled_with_both_probabilities(trained, flash, monkeypatch, tmp_path):
    i = SeqInterpretation.from_learner(trained('gru'))
    worst = i.top_losses(None)[1]
    assert i.plot_top_losses(3) is None
    assert len(titles()) == 3 and titles()[0].endswith(f'loss {i.losses[worst[0]]:.2f}')
    e, k = i.evaluation, int(worst[0])
    e.preds[k], e.predicted[k], e.rank[k], e.targets[k] = [.75, .25], 0, 2, 1
    i.show_results(k)
    assert titles()[0].startswith('Blue 0.75, in truth Red 0.25, loss')
    i.plot_top_losses([1, 2])
    assert len(titles()) == 2
    i.plot_top_losses(1, largest=False)
    assert titles()[0].endswith(f'loss {i.losses.min():.2f}')
    shown = []
    monkeypatch.setattr(room, 'display', lambda h: shown.append(h.data))
    i.plot_top_losses(4, animate=True, max_bytes=30_000)
    assert shown[0].count('<img') == 4 and len(shown[0]) < 33_000 and 'in truth Red 0.25' in shown[0]
    page, picture = i.plot_top_losses(2, save=tmp_path/'new'/'w.html'), i.plot_top_losses(2, save=tmp_path/'w.png')
    assert (
        page.read_text().count('<img') == 2
        and Image.open(picture).width > 200
        and i.plot_confusion_matrix(save=tmp_path / 'c.svg').read_text().count('<svg') == 1
    )
    for bad in (dict(save='w.gif'), dict(save='w.png', animate=True)):
        with pytest.raises(ValueError, match=r"\.html"): i.plot_top_losses(2, **bad)
    with pytest.raises(ValueError, match='no clips'): i.plot_top_losses(0)

@pytest.fixture(scope='module')
def uneven(tmp_path_factory):
    path = tmp_path_factory.mktemp('uneven')
    rng = np.random.default_rng(0)
    for c in 'ab':
        for g in range(4):
            for k in range(3):
                write_video(
                    path / c / f'v_{c}_g{g}_c{k}.avi',
                    [rng.integers(0, 255, (24, 24, 3)).astype(np.uint8) for _ in range(3 + g + k)],
                )
    return path

def test_clips_of_uneven_lengths(uneven):
    dls = ImageSeqDataLoaders.from_folder(uneven, sampler=EveryFrame(16), size=24, bs=4, seed=0, num_workers=0)
    learn = untrained(dls, 'gru', hidden_size=8)
    i = SeqInterpretation.from_learner(learn)
    lengths = [3 + sum(map(int, re.findall(r'[gc](\d)', f.stem))) for f in i.items]
    clips, *_, losses = i[range(len(lengths))]
    assert (
        len(set(lengths)) > 1
        and [len(c) for c in clips] == lengths
        and np.allclose(losses, learn.get_preds(with_loss=True)[2])
    )
    i.plot_top_losses(4)
    i.plot_top_losses(2, animate=True)
    for f, n in zip(i.items[:4], lengths):
        assert evidence(learn, f).values.shape == evidence(learn, f, how='occlusion').values.shape == (
            n,
        ) and grad_cam(learn, f).heat.shape == (n, 24, 24)
        assert np.isclose(evidence(learn, f, 'b').values[-1], i.evaluation.preds[i.items.index(f), 1], atol=1e-5)

def test_a_training_set_is_seen_as_in_validation(flash):
    "Without the random draws of frames, the shuffling and the dropped batch"
    learn = untrained(
        ImageSeqDataLoaders.from_folder(
            flash[0].path, seq_len=2, size=16, bs=5, seed=0, num_workers=0, sampler=RandomClip(2)
        )
    )
    a, b = (SeqInterpretation.from_learner(learn, dl=learn.dls.train) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a[range(9)][0], b[range(9)][0]))
    assert (
        torch.equal(a.losses, b.losses)
        and a.items == list(learn.dls.train.items)
        and len(a.items) > len(learn.dls.valid.items)
    )

def test_tuples_and_exported_learners(flash, tmp_path):
    files = get_instances(flash[0].path)
    dls = get_action_dataloaders(files, bs=4, image_size=SIDE, seq_len=4, num_workers=0)
    learn = with_model(dls, SimpleModel(tiny, n_out=2, pretrained=False))
    i = SeqInterpretation.from_learner(learn)
    i.plot_top_losses(2)
    i.plot_top_losses(2, animate=True)
    assert (
        evidence(learn, files[0]).clip.shape == (4, 3, SIDE, SIDE)
        and grad_cam(learn, files[0]).captions[1] == 'frame 1'
    )
    learn = untrained(flash[0], 'attention')
    before = evidence(learn, files[0])
    learn.export(tmp_path/'l.pkl')
    after = evidence(load_learner(tmp_path/'l.pkl'), files[0])
    assert np.allclose(before.values, after.values) and before.said == after.said

def test_numbers_and_several_labels(flash, tmp_path):
    files = get_instances(flash[0].path)
    load = partial(ImageSeqDataLoaders.from_lists, seq_len=4, size=16, bs=4, seed=0, num_workers=0)
    one, two = [len(f.name) + int(f.parent.name == 'Red') * 2.0 for f in files], [
        [1.0, 2.0 * (f.parent.name == 'Red')] for f in files
    ]
    for labels in (one, two):
        learn = untrained(load(flash[0].path, files, labels))
        i = SeqInterpretation.from_learner(learn)
        assert {'clips', 'mean error', 'loss'} == set(i.per_group()) and i.per_group()[
            'mean error'
        ].is_monotonic_decreasing
        i.plot_top_losses(2)
        assert 'in truth' in titles()[0]
        with pytest.raises(ValueError, match='numbers'): i.most_confused()
    assert (
        evidence(learn, files[0], 1).what == 'fall of the score without it'
        and evidence(learn, files[0], 1, window=2).what == 'fall of the score without 2 frames around'
    )
    assert grad_cam(learn, files[0], 1).said.startswith('output 1')
    with pytest.raises(ValueError, match='tells 2 numbers; choose one of 0 to 1'): evidence(learn, files[0], 2)
    learn = untrained(
        load(flash[0].path, files, [['F', f.parent.name] if k % 3 else ['F'] for k, f in enumerate(files)])
    )
    i = SeqInterpretation.from_learner(learn)
    assert 'wrong labels' in i.per_group()
    i.plot_top_losses(2)
    assert 'F 0.' in titles()[0]
    with pytest.raises(ValueError, match='several labels'): i.plot_confusion_matrix()
    z = learn.predict(files[0])[2]
    assert evidence(learn, files[0], 'Red', how='running').said == f"Red {z[learn.dls.vocab.o2i['Red']]:.3g}"

# --- what does not fit ---

def test_what_a_model_cannot_be_asked_is_named(flash, uneven, tmp_path):
    learn, f = untrained(flash[0], 'gru'), flash[0].valid.items[0]
    tf = with_model(
        flash[0],
        MyTimeSformer(
            dim=16, image_size=SIDE, patch_size=16, num_frames=T, num_classes=2, depth=1, heads=2, dim_head=8
        ),
    )
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(3, 2)
        def forward(self, x): return self.l(x.mean((1, 3, 4)))
    own = with_model(flash[0], Own())
    assert evidence(own, f).values.shape == (T,)            # any model can be occluded
    for call, words in [
        (lambda: grad_cam(tf, f), 'MyTimeSformer.*attention_rollout'),
        (lambda: grad_cam(own, f), 'Own has no feature maps'),
        (lambda: attention_rollout(own, f), 'Own has no attention'),
        (lambda: attention_rollout(learn, f), 'SeqModel has no attention'),
        (lambda: evidence(learn, f, how='attention'), 'GRUHead has no attention'),
        (lambda: evidence(tf, f, how='running'), 'MyTimeSformer looks at a clip as a whole'),
        (lambda: evidence(untrained(flash[0], 'diff'), f, how='running'), 'DiffHead looks'),
        (lambda: evidence(learn, f, 'Green'), "'Green'.*'Blue', 'Red'"),
        (lambda: evidence(learn, f, 2), "target=2.*'Blue'"),
        (lambda: evidence(learn, f, True), "target=True.*'Blue'"),
        (lambda: evidence(learn, f, how='see'), "how='see'.*'running', 'occlusion', 'attention'"),
        (lambda: evidence(learn, f, how='occlusion', window=T), f'from 1 to {T-1}'),
        (lambda: evidence(learn, f, how='occlusion', fill='black'), "'mean', 'neighbours'"),
    ]:
        with pytest.raises(ValueError, match=words): call()
    with pytest.raises((VideoError, OSError), match='none.avi'): evidence(learn, tmp_path/'none.avi')
    class Vectors(nn.Module):
        def forward(self, x, lengths=None): return x.mean((2, 3))[:, :, None, None]
    flat = with_model(flash[0], SeqModel(Vectors(), head_classes['avg'](3, 2)))
    with pytest.raises(ValueError, match='Vectors gives one vector a frame'): grad_cam(flat, f)
    other = ImageSeqDataLoaders.from_folder(uneven, seq_len=2, size=SIDE, bs=4, seed=0, num_workers=0)
    with pytest.raises(ValueError, match='not trained on'): SeqInterpretation.from_learner(learn, dl=other.valid)

def test_a_mvit_is_refused(tmp_path):
    dls = ImageSeqDataLoaders.from_folder(
        motion_clips(tmp_path, n_classes=2, n_groups=4, clips_per_group=1, n_frames=4, size=(32, 32)),
        seq_len=4,
        size=32,
        bs=2,
        seed=0,
        num_workers=0,
    )
    learn = with_model(dls, VideoNet(mvit_v2_s, 2, False, seq_len=4, size=32))
    with pytest.raises(ValueError, match='MViT has no feature maps'): grad_cam(learn, dls.valid.items[0])

# --- pictures ---

def test_evidence_shows_itself_and_is_saved(flash, tmp_path, monkeypatch):
    learn, f = untrained(flash[0], 'gru'), flash[0].valid.items[0]
    shown = []
    monkeypatch.setattr(room, 'display', lambda h: shown.append(h.data))
    for k, e in enumerate((evidence(learn, f), evidence(learn, f, how='occlusion'), grad_cam(learn, f))):
        assert e._repr_png_()[:8] == 'iVBORw0K' and re.search(r'(Blue|Red) 0\.\d+', repr(e))
        figures = len(plt.get_fignums())
        assert e.show(save=tmp_path/f'{k}.png', n_max=4).stat().st_size > 1000 and len(plt.get_fignums()) == figures
        page = e.show(save=tmp_path/f'{k}.html', max_bytes=60_000).read_text()
        assert (
            page.startswith('<!DOCTYPE html>')
            and page.count('<img') == (2 if isinstance(e, SpaceEvidence) else 1)
            and len(page) < 61_000
            and 'http' not in page
        )
        e.show(animate=True)
        assert 'data:image/webp' in shown[-1]
        with pytest.raises(ValueError, match='.svg'): e.show(save=tmp_path/'x.bmp')
    plt.close('all')

def test_ticks_stand_under_their_frames(flash):
    "The time axis and the strip agree, whatever number of frames is drawn"
    e = evidence(untrained(flash[0], 'gru'), flash[0].valid.items[0])
    for n_max in (2, 3, 5, 8, 12):
        fig = e._draw(n_max)
        fig.canvas.draw()
        top, ax = fig.axes
        n = len(ax.get_xticks())
        centres = [(k + .5)/n for k in range(n)]
        at = [(ax.transData.transform((x, 0))[0] - ax.bbox.x0)/ax.bbox.width for x in ax.get_xticks()]
        assert (
            np.allclose(at, centres, atol=0.5 / T + 0.01)
            and np.allclose(np.array(at)[[0, -1]], np.array(centres)[[0, -1]], atol=0.01)
            and np.isclose(top.bbox.x0, ax.bbox.x0)
            and np.isclose(top.bbox.width, ax.bbox.width)
        )
        plt.close(fig)

def test_heat_of_nothing_is_nothing():
    from fastai_seq.core import TensorVideo
    e = SpaceEvidence(TensorVideo(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), np.zeros((2, 2, 2)), 'a 0.5', 'Grad-CAM')
    assert e.heat.shape == (2, 8, 8) and not e.heat.any()

def test_it_plays_in_a_browser(trained, flash, tmp_path):
    "The page opens, and has clip and heat beside each other"
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not browser: pytest.skip('no chromium')
    page = grad_cam(trained('attention'), flash[0].valid.items[0]).show(save=tmp_path/'cam.html')
    subprocess.run(
        [
            browser,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            '--disable-quic',
            '--no-first-run',
            '--disable-background-networking',
            '--disable-component-update',
            '--disable-sync',
            f'--user-data-dir={tmp_path}/profile',
            f'--screenshot={tmp_path}/shot.png',
            '--window-size=600,300',
            f'file://{page}',
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    shot = np.asarray(Image.open(tmp_path/'shot.png').convert('RGB')).astype(int)
    dark = (shot.sum(2) < 500).any(0)
    assert shot.std() > 10 and 300 < dark.sum() < 400          # two pictures of 160 pixels, and their titles

def test_what_is_explained_is_what_is_predicted(tmp_path):
    "Also where the size is reached by transforms that draw in training"
    path = motion_clips(tmp_path/'clips', n_classes=2, n_groups=4, clips_per_group=2, n_frames=6, size=(32, 48))
    learn = untrained(
        ImageSeqDataLoaders.from_folder(
            path, seq_len=3, size=(32, 48), item_tfms=RandomResizedCrop(24), bs=4, seed=0, num_workers=0
        ),
        'gru',
    )
    f = learn.dls.valid.items[0]
    e = evidence(learn, f, target=0)
    assert np.isclose(e.values[-1], learn.predict(f)[2][0], atol=1e-6)
