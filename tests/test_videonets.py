"torchvision's nine video networks, wrapped: the same answers as bare, any clip they allow, their weights, what is refused."

import pickle

import pytest, torch
from torch import nn
from torchvision.models import get_model_weights, video
from torchvision.models.video import mvit as mvit_module

from fastai_seq.core import ImageTuple
from fastai_seq.models.videonets import VideoNet, videonet_splitter
from fastai_seq.models.defaults import normalize_stats

names = ['r3d_18', 'mc3_18', 'r2plus1d_18', 's3d', 'mvit_v1_b', 'mvit_v2_s', 'swin3d_t', 'swin3d_s', 'swin3d_b']
pytestmark = pytest.mark.filterwarnings('ignore')

def small(name, n_out=3, **kwargs):
    "The network with random weights, for 5 frames of 33 px where it must know"
    torch.manual_seed(0)
    return VideoNet(
        getattr(video, name),
        n_out,
        pretrained=kwargs.pop('pretrained', False),
        **({'seq_len': 5, 'size': 33} if 'mvit' in name else {}),
        **kwargs,
    )

def close(a, b, rel):
    "Within a share of the spread of `b`: networks differ by orders of magnitude in what they put out"
    return (a.float() - b.float()).abs().max() < rel*b.float().std().clamp(min=1e-6)

@pytest.mark.parametrize('name', names)
@pytest.mark.slow
def test_every_network(name):
    "Odd sizes, either form of batch, gradients for all, three groups, bf16 and channels-last, pickled and opened"
    torch.manual_seed(0)
    x, model = torch.rand(*((2, 17, 3, 65, 65) if name == 's3d' else (2, 5, 3, 33, 33))), small(name)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm3d): m.momentum = .9
    with torch.no_grad():
        model.train()(x)    # BatchNorm's statistics are nearly those of x: no map is 0 or huge
        y = model.eval()(x)
        assert y.shape == (2, 3) and torch.equal(model(ImageTuple(x.unbind(1))), y)
        assert not close(model(x.flip(1)), y, 1e-3), 'order does not matter'
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), y)
        with torch.autocast('cpu', torch.bfloat16): low = model(x)
        assert low.dtype == torch.bfloat16 and close(low, y, .3)
        model.to(memory_format=torch.channels_last_3d)
        assert close(model(x), y, 1e-4)
    groups = videonet_splitter(model)
    assert [id(p) for g in groups for p in g] == [id(p) for p in model.parameters()] and min(map(len, groups)) >= 2
    for amp in (False, True):
        model.train().zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=amp): model(x).float().sum().backward()
        assert all(p.grad is not None and (amp or p.grad.isfinite().all()) for p in model.parameters())

@pytest.mark.parametrize('name, t, px', [('r3d_18', 4, 48), ('mc3_18', 4, 48), ('r2plus1d_18', 3, 40), ('s3d', 13, 209), ('swin3d_t', 4, 48)])
@pytest.mark.slow
def test_same_as_bare(name, t, px):
    model = small(name).eval()
    bare = getattr(video, name)(num_classes=3).eval()
    bare.load_state_dict(model.net.state_dict())
    x = torch.rand(1, t, 3, px, px)
    with torch.no_grad(): assert torch.allclose(model(x), bare(x.transpose(1, 2).contiguous()), atol=1e-5)

@pytest.mark.parametrize('name, size', [('mvit_v1_b', (32, 64)), ('mvit_v2_s', (64, 64))])
@pytest.mark.slow
def test_mvit_of_another_size_is_torchvisions_of_that_size(name, size, monkeypatch):
    "Its class can be built for any size, its functions cannot: the same weights, relative positions stretched, give the same"
    made = dict(rel_pos_embed=False, proj_after_attn=False)
    monkeypatch.setattr(mvit_module, '_mvit', lambda weights, progress, **kwargs: made.update(kwargs))
    getattr(video, name)(num_classes=3)
    monkeypatch.undo()
    bare = video.MViT(**{**made, 'spatial_size': size, 'temporal_size': 4}).eval()
    model = VideoNet(getattr(video, name), 3, pretrained=False, seq_len=4, size=size).eval()
    ours, theirs = model.net.state_dict(), bare.state_dict()
    assert ours.keys() == theirs.keys() and (
        name != 'mvit_v1_b' or all(v.shape == theirs[k].shape for k, v in ours.items())
    )
    bare.load_state_dict({
        k: v if v.shape == theirs[k].shape else mvit_module._interpolate(v, len(theirs[k]))
        for k, v in ours.items()
    })
    x = torch.rand(1, 4, 3, *size)
    with torch.no_grad(): assert torch.allclose(model(x), bare(x.transpose(1, 2)), atol=1e-5)

@pytest.mark.parametrize('name, ok, bad', [('r3d_18', [(1, 1)], []), ('swin3d_t', [(1, 1)], []), ('s3d', [(5, 17)], [(4, 17), (5, 16)])])
@pytest.mark.slow
def test_least_clips(name, ok, bad):
    model = small(name).eval()
    with torch.no_grad():
        for t, s in ok: assert model(torch.rand(1, t, 3, s, s)).isfinite().all()
        for t, s in bad:
            with pytest.raises(RuntimeError): model.net(torch.rand(1, 3, t, s, s))
            with pytest.raises(ValueError, match=f'at least 5 frames of 17x17 pixels, got {t} of {s}x{s}'):
                model(torch.rand(1, t, 3, s, s))
            with pytest.raises(ValueError, match=f'got {t} of {s}x{s}'): small(name, seq_len=t, size=s)

def test_mvit_takes_what_gives_its_tokens():
    model = VideoNet(video.mvit_v2_s, 3, pretrained=False, seq_len=4, size=(32, 36)).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 3, 29, 33)).shape == (1, 3)
        for t, h, w in ((2, 32, 36), (5, 32, 36), (4, 28, 36), (4, 36, 32)):
            with pytest.raises(
                ValueError,
                match=(
                    rf'made for 4 frames of 32x36 pixels, the batch has {t} of {h}x{w}; .*size=\({h}, {w}\)'
                ),
            ):
                model(torch.rand(1, t, 3, h, w))

@pytest.mark.slow
def test_s3d_learns_its_statistics_in_a_short_training():
    "With torchvision's momentum the running means are at 3% after 30 batches, and evaluation has nothing to do with training"
    model, x = small('s3d').train(), torch.rand(4, 5, 3, 33, 33) + 3
    bn = next(m for m in model.modules() if isinstance(m, nn.BatchNorm3d))
    with torch.no_grad():
        for _ in range(30): model(x)
        seen = model.net.features[0][0][0](x.transpose(1, 2)).mean((0, 2, 3, 4))
    assert torch.allclose(bn.running_mean, seen, rtol=.1, atol=1e-3)

@pytest.mark.parametrize('name', ['r3d_18', 's3d', 'mvit_v1_b', 'mvit_v2_s', 'swin3d_t'])
@pytest.mark.slow
def test_downloaded_weights_are_used_but_for_the_head(name, monkeypatch):
    arch = getattr(video, name)
    kinetics = {
        k: torch.randn_like(v) if v.is_floating_point() else v
        for k, v in arch(num_classes=400).state_dict().items()
    }
    asked = []
    monkeypatch.setattr(
        'torchvision.models._api.load_state_dict_from_url', lambda url, **k: asked.append(url) or kinetics
    )
    for pretrained in (True, get_model_weights(arch).DEFAULT):
        model = VideoNet(arch, 3, pretrained)
        head = {n for n, p in model.net.named_parameters() if p.shape[0] == 3}
        assert len(head) == 2 and all(
            torch.equal(v, kinetics[k]) for k, v in model.net.state_dict().items() if k not in head
        )
    assert asked == [get_model_weights(arch).DEFAULT.url]*2

def test_weights_that_cannot_be_downloaded(monkeypatch):
    def offline(*a, **k): raise OSError('no route to host')
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', offline)
    with pytest.raises(
        OSError,
        match=(
            'R3D_18_Weights.KINETICS400_V1 could not be downloaded .no route to host.; pass pretrained=False'
        ),
    ):
        VideoNet(video.r3d_18, 3)

def test_local_weights_of_every_kind(tmp_path):
    "torchvision's state dict, ours, and either under 'model' as trainings write them"
    net = video.mc3_18(num_classes=9)
    ours = {f'net.{k}': v for k, v in net.state_dict().items()}
    for i, w in enumerate((net.state_dict(), ours, {'model': ours, 'epoch': 3})):
        torch.save(w, tmp_path/f'{i}.pth')
        model = VideoNet(video.mc3_18, 3, pretrained=tmp_path/f'{i}.pth')
        assert (
            torch.equal(model.net.layer4[1].conv2[0].weight, net.layer4[1].conv2[0].weight)
            and model.net.fc.out_features == 3
        )

@pytest.mark.slow
def test_local_weights_that_do_not_fit(tmp_path):
    w = video.mc3_18(num_classes=9).state_dict()
    torch.save(w, tmp_path/'mc3.pth')
    with pytest.raises(
        ValueError,
        match=r'of another shape \(layer2.0.conv1.0.weight is \(128, 64, 1, 3, 3\), not \(128, 64, 3, 3, 3\)',
    ) as e:
        VideoNet(video.r3d_18, 3, pretrained=tmp_path/'mc3.pth')
    assert 'mc3.pth do not fit VideoResNet: of ' in str(e.value) and 'strict=False' in str(e.value)
    with pytest.warns(UserWarning, match='keys of VideoResNet loaded; .* of another shape .layer2.0'):
        model = VideoNet(video.r3d_18, 3, pretrained=tmp_path / 'mc3.pth', strict=False)
    assert torch.equal(model.net.layer1[0].conv1[0].weight, w['layer1.0.conv1.0.weight'])
    torch.save({k: v for k, v in w.items() if 'layer3.0' not in k} | {'more': torch.zeros(1)}, tmp_path/'less.pth')
    with pytest.raises(ValueError, match='missing in it .layer3.0.*; 1 unknown to the network .more'):
        VideoNet(video.mc3_18, 3, pretrained=tmp_path / 'less.pth')
    with pytest.raises(ValueError, match='0 fit') as e:
        VideoNet(video.s3d, 3, pretrained=tmp_path / 'mc3.pth', strict=False)
    assert 'or strict=False' not in str(e.value)
    torch.save([1], tmp_path/'list.pth')
    (tmp_path/'text.pth').write_text('text')
    with pytest.raises(ValueError, match='list.pth holds no state dict'):
        VideoNet(video.mc3_18, 3, pretrained=tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='text.pth is no file of weights alone.*with_opt=False'):
        VideoNet(video.mc3_18, 3, pretrained=tmp_path / 'text.pth')
    with pytest.raises(OSError, match='none.pth'): VideoNet(video.mc3_18, 3, pretrained=tmp_path/'none.pth')

@pytest.mark.slow
def test_positions_learned_for_another_clip(tmp_path):
    "They follow their place: what grew from left to right still does, between the same ends; their own size leaves them as they are"
    w = video.mvit_v1_b(num_classes=400).state_dict()
    w['pos_encoding.spatial_pos'] = torch.linspace(0, 1, 56).repeat(56)[:, None].expand(-1, 96).contiguous()
    w['pos_encoding.temporal_pos'] = torch.linspace(0, 1, 8)[:, None].expand(-1, 96).contiguous()
    torch.save(w, tmp_path/'w.pth')
    pos = VideoNet(video.mvit_v1_b, 3, tmp_path/'w.pth').net.pos_encoding
    assert torch.equal(pos.spatial_pos, w['pos_encoding.spatial_pos']) and torch.equal(
        pos.temporal_pos, w['pos_encoding.temporal_pos']
    )
    pos = VideoNet(video.mvit_v1_b, 3, tmp_path/'w.pth', seq_len=8, size=(64, 112)).net.pos_encoding
    cols, times = pos.spatial_pos[:, 0].view(16, 28), pos.temporal_pos[:, 0]
    assert torch.allclose(cols, torch.linspace(.5/55, 54.5/55, 28).expand(16, -1), atol=5e-3)
    assert torch.allclose(times, torch.linspace(.5/7, 6.5/7, 4), atol=1e-3)

@pytest.mark.parametrize('name', names)
def test_what_it_was_trained_on(name):
    with torch.device('meta'): model = VideoNet(getattr(video, name), 3, pretrained=False)
    tfm = get_model_weights(name).DEFAULT.transforms()
    assert normalize_stats(model) == (tfm.mean, tfm.std)
    assert model.trained_on['seq_len'] in (16, 32, 128) and model.trained_on['fps'] in (7.5, 15)
    assert model.trained_on['size'] in ((112, 112), (224, 224))
