"Temporal pieces keep their promises: padding does not count, steps equal sequences, a shift moves what it says and nothing else."

import pytest, torch, torchvision
from functools import partial
from torch import nn

from fastai_seq.models.batch import length_mask
from fastai_seq.models.convrnn import ConvGRU, ConvLSTM
from fastai_seq.models.layers import (
    AttentionPool, FrameDifference, LearnedPositions, SinusoidalPositions, TemporalPool,
    TemporalTransformer)
from fastai_seq.models.shift import TemporalShift, _branch, add_temporal_shift, clip_frames

torch.manual_seed(0)
lengths = (6, 1, 4)

def same(a, b, tol=1e-5): return torch.allclose(a, b, atol=tol)

def test_length_mask():
    mask = length_mask(lengths, 6)
    assert mask.sum(1).tolist() == list(lengths) and all((row.int().diff() <= 0).all() for row in mask)

@pytest.mark.parametrize('make', [TemporalPool, partial(TemporalPool, 'max'), partial(TemporalPool, 'last'), partial(AttentionPool, 7), partial(AttentionPool, 7, gated=False)],
                         ids=['avg', 'max', 'last', 'attention', 'ungated'])
def test_pools_ignore_padding(make):
    pool, x = make(), torch.randn(3, 6, 7)
    padded = x.masked_fill(~length_mask(lengths, 6)[..., None], 1e4)
    for i,n in enumerate(lengths): assert same(pool(padded, lengths)[i], pool(x[i:i+1, :n])[0])
    assert same(pool(x, (6,6,6)), pool(x))

@pytest.mark.parametrize('how', ['avg', 'max', 'last'])
def test_pools_take_maps(how):
    x = torch.randn(3, 6, 7, 2, 3)
    assert same(TemporalPool(how)(x, lengths), TemporalPool(how)(x.flatten(2), lengths).unflatten(1, (7,2,3)))

def test_attention_weights():
    pool, x = AttentionPool(7), torch.randn(3, 6, 7)
    w = pool.weights(x, lengths)
    assert same(w.sum(1), torch.ones(3)) and (w[~length_mask(lengths, 6)] == 0).all()
    assert same((w[..., None]*x).sum(1), pool(x, lengths))

@pytest.mark.parametrize('kind', [ConvLSTM, ConvGRU])
def test_recurrent_maps(kind):
    rnn, x = kind(3, 5), torch.randn(3, 6, 3, 4, 7)
    outs, last = rnn(x)
    state, seen = None, []
    for t in range(6):
        state = rnn.step(x[:, t], state)
        seen.append(state[0])
    assert same(torch.stack(seen, 1), outs) and all(same(a, b) for a,b in zip(state, last))
    _, cut = rnn(x[:, :2])
    assert same(rnn(x[:, 2:], state=cut)[0], outs[:, 2:])                       # in two halves
    padded = x.masked_fill(~length_mask(lengths, 6)[..., None, None, None], 9.)
    for i,n in enumerate(lengths):
        alone = rnn(x[i:i+1, :n])[1]
        assert all(same(a[i], b[0]) for a,b in zip(rnn(padded, lengths)[1], alone))
    later = x.clone()
    later[:, 4:] += 1
    assert same(rnn(later)[0][:, :4], outs[:, :4]) and not same(rnn(later)[0], outs)    # it does not look ahead

@pytest.mark.parametrize('n_div', [2, 3, 4, 8])
@pytest.mark.parametrize('clips', [(4,4), (3,1,4), (8,)])
def test_shift_moves_its_share_and_no_more(n_div, clips):
    shift, x = TemporalShift(n_div), torch.randn(8, 24, 2, 2)
    with clip_frames(shift, clips): out = shift(x)
    k, zero = 24//n_div, torch.zeros(1, 24//n_div, 2, 2)
    for a,b in zip(x.split(clips), out.split(clips)):
        assert torch.equal(b[:, :k], torch.cat([zero, a[:-1, :k]]))
        assert torch.equal(b[:, k:2*k], torch.cat([a[1:, k:2*k], zero]))
        assert torch.equal(b[:, 2*k:], a[:, 2*k:])
    assert shift.lengths is None

def test_shift_forgets_after_a_failure():
    net = nn.Sequential(TemporalShift(), nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        with clip_frames(net, (2,)): net(torch.rand(2, 16, 5, 5))
    with pytest.raises(RuntimeError, match='clip_frames'): net[0](torch.rand(2, 16, 5, 5))

branches = dict(
    resnet18=8,
    resnet50=16,
    resnext50_32x4d=16,
    regnet_y_400mf=16,
    mobilenet_v2=10,
    mobilenet_v3_small=6,
    mnasnet0_5=10,
    efficientnet_b0=9,
    efficientnet_v2_s=35,
    convnext_tiny=18,
)

@pytest.mark.parametrize('name', branches)
@pytest.mark.slow
def test_shift_goes_into_residual_branches(name):
    net = torchvision.models.get_model_builder(name)()
    assert add_temporal_shift(net) == branches[name]

timm_branches = dict(
    resnet18=8,
    resnet26d=8,
    resnetv2_50=16,
    seresnet18=8,
    mobilenetv2_050=10,
    mobilenetv3_small_100=6,
    efficientnet_b0=9,
    efficientnet_es=12,
    regnety_002=13,
    convnext_atto=12,
    mobilevit_xxs=7,
)

@pytest.mark.parametrize('name', timm_branches)
def test_shift_goes_into_residual_branches_of_timm(name):
    timm = pytest.importorskip('timm')
    assert add_temporal_shift(timm.create_model(name)) == timm_branches[name]

@pytest.mark.parametrize('name,last', [('resnet18', 'bn2'), ('mobilenet_v2', 'conv'), ('regnet_y_400mf', 'f')])
def test_shift_leaves_the_way_around_alone(name, last):
    "With branches that give zero, the network is what it was: the frame itself passes unshifted"
    net = torchvision.models.get_model_builder(name)().eval()
    for m in net.modules():
        if hasattr(m, last) and _branch(m):
            for p in [o for o in getattr(m, last).modules() if isinstance(o, nn.BatchNorm2d)][
                -1
            ].parameters():
                nn.init.zeros_(p)
    x = torch.rand(4, 3, 64, 64)
    with torch.no_grad(): before = net(x)
    add_temporal_shift(net)
    with torch.no_grad(), clip_frames(net, (4,)): assert same(net(x), before)

@pytest.mark.slow
def test_no_shift_where_nothing_adds_its_input():
    "Nor where a stage of blocks only looks like one of them"
    timm = pytest.importorskip('timm')
    for net in (
        torchvision.models.vgg11(),
        timm.create_model('vit_tiny_patch16_224'),
        timm.create_model('edgenext_xx_small'),
    ):
        with pytest.raises(ValueError, match=f'{type(net).__name__} has no residual blocks'): add_temporal_shift(net)

def test_differences():
    x = torch.randn(2, 5, 3)
    assert same(FrameDifference()(x).cumsum(1), x[:, 1:] - x[:, :1])

def test_transformer_ignores_padding_and_knows_order():
    x = torch.randn(3, 6, 7)
    for positions in (partial(LearnedPositions, max_len=6), SinusoidalPositions):
        tfm = TemporalTransformer(7, 16, positions=positions).eval()
        out = tfm(x.masked_fill(~length_mask(lengths, 6)[..., None], 5.), lengths)
        for i,n in enumerate(lengths): assert same(out[i, :n], tfm(x[i:i+1, :n])[0])
        assert not same(tfm(x).mean(1), tfm(x.flip(1)).mean(1), 1e-3)
    blind = TemporalTransformer(7, 16, positions=lambda dim: nn.Identity()).eval()
    assert same(blind(x).mean(1), blind(x.flip(1)).mean(1))      # it is the positions that know order
