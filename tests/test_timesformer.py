"""MyTimeSformer is timesformer-pytorch's, output and gradient, under every option; an image transformer over time starts as the image
transformer; Hugging Face's models behind our door are Hugging Face's."""

import itertools

import pytest, torch
from timesformer_pytorch import TimeSformer
from torch import nn

from fastai_seq.models import attention, cpu
from fastai_seq.core import ImageTuple, TensorVideo
from fastai_seq.models.hf_video import hf_video_model, hf_video_splitter, timesformer_from_hf
from fastai_seq.models.timesformer import MyTimeSformer, timesformer_splitter
from fastai_seq.models.vit_timesformer import timesformer_from_vit, vit_timesformer_splitter

small = dict(dim=24, image_size=24, patch_size=8, num_frames=3, num_classes=4, depth=2, heads=2, dim_head=8)
mask = torch.tensor([[True, True, False], [True, True, True]])

def pair(**kwargs):
    torch.manual_seed(0)
    ref, ours = TimeSformer(**{**small, **kwargs}), MyTimeSformer(**{**small, **kwargs})
    ours.load_state_dict(ref.state_dict(), strict=True)
    ref.load_state_dict(ours.state_dict(), strict=True)
    return ref, ours

def clip(ref, b=2, t=3, s=24): return torch.rand(b, t, 3, s, s)

def assert_same(ref, ours, x, **kwargs):
    "Outputs and all gradients, the input's included, to 1e-5 of the largest"
    xs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = ref(xs[0], **kwargs), ours(xs[1], **kwargs)
    assert torch.allclose(a, b, atol=1e-5)
    for o in (a, b): o.square().sum().backward()
    for p, q in zip([*ref.parameters(), xs[0]], [*ours.parameters(), xs[1]]):
        assert p.grad is not None and q.grad is not None
        assert (p.grad - q.grad).abs().max() <= 1e-5*max(1, p.grad.abs().max().item())

@pytest.mark.parametrize('rotary,shift,masked', itertools.product((True, False), (True, False), (True, False)))
def test_equal_to_the_library(rotary, shift, masked):
    ref, ours = pair(rotary_emb=rotary, shift_tokens=shift)
    assert_same(ref, ours, clip(ref), mask=mask if masked else None)

@pytest.mark.parametrize('kw', [dict(heads=1, dim_head=4), dict(heads=3, dim_head=6), dict(dim=25), dict(depth=1), dict(num_frames=1), dict(patch_size=24), dict(image_size=40),
                                dict(dim=25, shift_tokens=True), dict(num_frames=1, shift_tokens=True), dict(channels=1)], ids=str)
@pytest.mark.slow
def test_equal_at_every_size(kw):
    ref, ours = pair(**kw)
    x = torch.rand(2, {**small, **kw}['num_frames'], kw.get('channels', 3), *[kw.get('image_size', 24)]*2)
    assert_same(ref, ours, x)

@pytest.mark.parametrize('rotary', (True, False))
@pytest.mark.slow
def test_equal_without_gradients(rotary):
    "Inference, as it is and traced"
    ref, ours = pair(rotary_emb=rotary, shift_tokens=True)
    x = clip(ref)
    with torch.no_grad():
        for m in (None, mask): assert torch.allclose(ref(x, mask=m), ours(x, mask=m), atol=1e-5)
        assert torch.allclose(torch.jit.trace(ours.eval(), x)(x), ref(x), atol=1e-5)

def test_equal_on_the_way_of_other_devices(monkeypatch):
    "A GPU takes autograd's way; here on the CPU"
    for room in (attention, cpu): monkeypatch.setattr(room, 'on_cpu', lambda x: False)
    for kw in (dict(), dict(rotary_emb=False)):
        ref, ours = pair(**kw)
        assert_same(ref, ours, clip(ref), mask=mask)

def test_equal_without_onednn(monkeypatch):
    monkeypatch.setattr(cpu, '_has_onednn', lambda: False)
    ref, ours = pair()
    assert_same(ref, ours, clip(ref))

def test_frozen_layers_and_no_waste():
    "Gradients go where they are wanted only"
    ref, ours = pair()
    for m in (ref, ours):
        for p in [
            *m.layers[0].parameters(),
            *m.to_patch_embedding.parameters(),
            m.cls_token,
            m.layers[1][2].fn.net[3].weight,
        ]:
            p.requires_grad_(False)
        m(torch.ones(1, 3, 3, 24, 24)).square().sum().backward()
    for p, q in zip(ref.parameters(), ours.parameters()):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None: assert torch.allclose(p.grad, q.grad, atol=1e-5)

def test_masked_frames_do_not_matter():
    _, ours = pair()
    x = clip(ours)
    y = x.clone()
    y[0, 2] = 0
    assert torch.allclose(ours(x, mask=mask), ours(y, mask=mask), atol=1e-6) and not torch.allclose(
        ours(x), ours(y), atol=1e-6
    )

@pytest.mark.parametrize('dtype', (torch.bfloat16, torch.float64))
def test_other_precisions(dtype):
    ref, ours = pair()
    x = clip(ref)
    if dtype == torch.float64:
        ref, ours = ref.double(), ours.double()
        return assert_same(ref, ours, x.double())
    exact = ref(x)
    exact.square().sum().backward()
    with torch.autocast('cpu', dtype): out = ours(x)
    out.float().square().sum().backward()
    assert torch.allclose(exact, out.float(), atol=.05*exact.abs().max().item())
    for p, q in zip(ref.parameters(), ours.parameters()):
        assert torch.nn.functional.cosine_similarity(p.grad.flatten(), q.grad.flatten(), 0) > 0.98

@pytest.mark.parametrize('p', (.1, .5, .9))
def test_dropout_has_the_librarys_distribution(p):
    x = torch.ones(500, 401, requires_grad=True)
    y = cpu.apply_dropout(x, p, True)
    y.sum().backward()
    kept = (y != 0).float()
    assert (
        abs(kept.mean() - (1 - p)) < 0.005
        and torch.allclose(y[y != 0], torch.tensor(1 / (1 - p)))
        and torch.equal(x.grad, y.detach())
    )
    corr = torch.corrcoef(kept.flatten()[:200_000].view(-1, 4).T) - torch.eye(
        4
    )  # four are drawn from one number: they are independent
    assert corr.abs().max() < .02
    assert abs(kept.mean(0).std() - (p*(1-p)/500)**.5) < .005

def test_dropout_seeded_and_off_in_evaluation():
    _, ours = pair(attn_dropout=.3, ff_dropout=.3)
    x, run = clip(ours), lambda: (torch.manual_seed(3), ours(x))[1]
    assert torch.equal(run(), run()) and not torch.allclose(ours(x), ours(x))
    ours.eval()
    assert torch.equal(ours(x), ours(x))

def test_training_outputs_with_dropout_agree_in_distribution():
    ref, ours = pair(attn_dropout=.2, ff_dropout=.2, depth=1)
    x = clip(ref)[:1].expand(400, -1, -1, -1, -1)
    a, b = ref(x), ours(x)
    assert (a.mean(0) - b.mean(0)).abs().max() < 5*(a.std(0)/20).max() and ((a.std(0)/b.std(0)).log().abs() < .3).all()

def test_forms_of_batch_and_bad_clips():
    _, ours = pair()
    ours.eval()
    x = clip(ours)
    for form in (ImageTuple(x.unbind(1)), TensorVideo(x)):
        out = ours(form)
        assert type(out) is torch.Tensor and torch.allclose(out, ours(x))
    for bad, said in (
        (x[:, :2], '2 of 24x24'),
        (x[..., :16], '3 of 24x16'),
        (torch.rand(2, 4, 3, 32, 32), '4 of 32x32'),
    ):
        with pytest.raises(ValueError, match=f'num_frames=3 of 24x24 pixels, the batch has {said}'): ours(bad)
    with pytest.raises(ValueError, match='image_size=30.*patch_size=8; choose image_size=32'):
        MyTimeSformer(dim=8, image_size=30, patch_size=8, num_classes=2)

def three_groups(model, splitter):
    groups = splitter(model)
    assert len(groups) == 3 and all(len(g) for g in groups)
    assert sorted(id(p) for g in groups for p in g) == sorted(id(p) for p in model.parameters())
    return groups

def test_splitter():
    _, ours = pair()
    early, late, head = three_groups(ours, timesformer_splitter)
    assert {id(p) for p in head} == {id(p) for p in ours.to_out.parameters()} and {id(p) for p in late} == {
        id(p) for p in ours.layers[1].parameters()
    }

# over image transformers

def vit(name='vit_tiny_patch16_224', **kwargs):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    model = timm.create_model(
        name, **{**dict(img_size=32, depth=2, num_classes=5, embed_dim=48, num_heads=3), **kwargs}
    ).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)  # fresh heads and layer scales are zeros or nearly so
    return model

vits = {
    'class token': {},
    'average': dict(class_token=False, global_pool='avg'),
    'average with class token': dict(global_pool='avg'),
    'registers': dict(reg_tokens=4),
    'layer scale': dict(init_values=0.1),
    'norm of queries': dict(qk_norm=True),
    'pre-norm': dict(pre_norm=True),
    'no bias': dict(qkv_bias=False),
    'attention pooling': dict(class_token=False, global_pool='map'),
    'class token without position': dict(no_embed_class=True),
    'dynamic size': dict(dynamic_img_size=True),
}
makes = [
    *(('vit_tiny_patch16_224', kw) for kw in vits.values()),
    ('deit_tiny_distilled_patch16_224', {}),
    ('vit_small_patch14_dinov2', dict(img_size=28)),
    ('vit_base_patch16_siglip_224', {}),
    ('vit_base_patch16_clip_224', {}),
]

@pytest.mark.parametrize('attention', ('divided', 'space'))
@pytest.mark.parametrize('name,kw', makes, ids=[*vits, 'deit', 'dinov2', 'siglip', 'clip'])
def test_equal_frames_give_the_image_transformers_answer(name, kw, attention):
    net = vit(name, **kw)
    frame = torch.rand(2, 3, *net.patch_embed.img_size)
    says = net(frame)
    assert says.std() > 1e-3
    model = timesformer_from_vit(net, num_frames=3, attention=attention).eval()
    assert torch.allclose(model(frame[:, None].expand(-1, 3, -1, -1, -1)), says, atol=1e-5)
    three_groups(timesformer_from_vit(net, 2, 3, attention), vit_timesformer_splitter)

def test_what_each_attention_sees():
    "Space alone and untrained time are blind to order; joint attention with positions, and time with other weights, are not"
    x = torch.rand(2, 3, 3, 32, 32)
    same = lambda m: torch.allclose(m(x), m(x.flip(1)), atol=1e-5)
    make = lambda a: timesformer_from_vit(vit(), 4, 3, a).eval()
    assert same(make('space')) and same(model := make('divided')) and not same(joint := make('joint'))
    nn.init.zeros_(joint.time_embed)
    assert same(joint)
    for b in model.time_blocks: nn.init.normal_(b.attn.proj.weight, std=.5)
    assert not same(model)

def test_checkpointing_changes_nothing_but_memory():
    x, outs = torch.rand(2, 3, 3, 32, 32), []
    for attention in ('divided', 'joint', 'space'):
        models = [timesformer_from_vit(vit(), 4, 3, attention, checkpoint=c) for c in (False, True)]
        models[1].load_state_dict(models[0].state_dict())
        for m in models: m(x).square().sum().backward()
        for p, q in zip(*(m.parameters() for m in models)): assert torch.allclose(p.grad, q.grad, atol=1e-6)

def test_vit_by_name_and_local_weights(tmp_path):
    timm = pytest.importorskip('timm')
    net = timm.create_model('vit_tiny_patch16_224')
    torch.save(net.state_dict(), tmp_path/'w.pth')
    model = timesformer_from_vit('vit_tiny_patch16_224', 7, 2, pretrained=tmp_path/'w.pth')
    assert (
        torch.equal(model.vit.blocks[3].mlp.fc1.weight, net.blocks[3].mlp.fc1.weight)
        and model.vit.head.out_features == 7
    )
    assert model.stats == ([.5, .5, .5], [.5, .5, .5])
    torch.save({'a': torch.zeros(1)}, tmp_path/'other.pth')
    with pytest.raises(ValueError, match='other.pth do not fit vit_tiny_patch16_224'):
        timesformer_from_vit('vit_tiny_patch16_224', 7, pretrained=tmp_path / 'other.pth')
    with pytest.raises(FileNotFoundError, match='none.pth'):
        timesformer_from_vit('vit_tiny_patch16_224', 7, pretrained='none.pth')

def test_an_image_transformer_made_by_its_class():
    "It has no `pretrained_cfg`, which timm's `create_model` gives"
    vit = pytest.importorskip('timm').models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2
    )
    model = timesformer_from_vit(vit, 3, 2)
    assert model.stats is None and model(torch.rand(1, 2, 3, 32, 32)).shape == (1, 3)

@pytest.mark.parametrize('make,said', [
    (lambda: vit('vit_tiny_patch16_224', patch_drop_rate=.5), 'drops patches'), (lambda: vit('vit_small_patch16_36x1_224'), None),
    (lambda: vit('vit_small_patch16_18x2_224'), 'made of ParallelThingsBlock'), (lambda: nn.Linear(2, 2), 'Linear: expected a timm VisionTransformer'),
    (lambda: __import__('timm').create_model('eva02_tiny_patch14_224'), 'Eva: expected')], ids=['patch drop', 'deep', 'parallel', 'linear', 'eva'])
def test_image_transformers_that_cannot_be_extended(make, said):
    pytest.importorskip('timm')
    if said is None:
        timesformer_from_vit(make(), 2, 2)
        return
    with pytest.raises(ValueError, match=said): timesformer_from_vit(make(), 2, 2)

def test_vit_offline(monkeypatch):
    timm = pytest.importorskip('timm')
    def offline(*a, **k): raise OSError('no route to host')
    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(
        OSError,
        match=(
            'vit_tiny_patch16_224 could not be downloaded .no route to host.; pass pretrained=False, or the'
            ' path'
        ),
    ):
        timesformer_from_vit('vit_tiny_patch16_224', 3)

# Hugging Face's

def hf_configs(**kwargs):
    tr = pytest.importorskip('transformers')
    kw = dict(
        image_size=32,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_frames=4,
        num_labels=6,
        **kwargs,
    )
    return tr.TimesformerConfig(**kw), tr.VideoMAEConfig(**kw)

@pytest.mark.parametrize('i', (0, 1), ids=['timesformer', 'videomae'])
def test_hugging_face_folder(i, tmp_path):
    cfg = hf_configs()[i]
    own = hf_video_model(cfg).net.eval()
    own.save_pretrained(tmp_path)
    x = torch.rand(2, 4, 3, 32, 32)
    same = hf_video_model(tmp_path).eval()
    assert torch.equal(same(ImageTuple(x.unbind(1))), own(pixel_values=x).logits) and same.stats is None
    (tmp_path / 'preprocessor_config.json').write_text(
        '{"image_mean": [0.45, 0.45, 0.45], "image_std": [0.225, 0.225, 0.225], "image_processor_type":'
        ' "VideoMAEImageProcessor"}'
    )
    new = hf_video_model(str(tmp_path), n_out=3).eval()
    assert new(x).shape == (2, 3) and new.stats == ([.45]*3, [.225]*3)
    assert torch.equal(
        new.net.base_model.encoder.layer[1].output.dense.weight,
        own.base_model.encoder.layer[1].output.dense.weight,
    )
    fresh = hf_video_model(tmp_path, n_out=3, pretrained=False)
    assert not torch.equal(
        fresh.net.base_model.encoder.layer[1].output.dense.weight,
        own.base_model.encoder.layer[1].output.dense.weight,
    )
    head = three_groups(new, hf_video_splitter)[2]
    assert any(p is new.net.classifier.weight for p in head)
    for bad, said in ((x[:, :2], '2 of 32x32'), (torch.rand(2, 4, 3, 48, 48), '4 of 48x48')):
        with pytest.raises(ValueError, match=f'num_frames=4 of 32x32 pixels, the batch has {said}'): new(bad)

@pytest.mark.parametrize('i', (0, 1), ids=['timesformer', 'videomae'])
def test_hugging_face_for_another_length(i, tmp_path):
    own = hf_video_model(hf_configs()[i]).net
    own.save_pretrained(tmp_path)
    model = hf_video_model(tmp_path, n_out=2, num_frames=8)
    assert model(torch.rand(1, 8, 3, 32, 32)).shape == (1, 2) and model.clip_shape == (8, 32, 32)
    assert torch.equal(
        model.net.base_model.encoder.layer[0].output.dense.weight,
        own.base_model.encoder.layer[0].output.dense.weight,
    )

@pytest.mark.parametrize('bias', (True, False))
def test_hugging_faces_weights_in_our_network(bias):
    pytest.importorskip('timm')
    hf = hf_video_model(hf_configs(qkv_bias=bias)[0]).eval()
    for p in hf.parameters(): nn.init.normal_(p, std=.2)
    x = torch.rand(2, 4, 3, 32, 32)
    ours = timesformer_from_hf(hf).eval()
    assert (
        hf(x).std() > 0.1
        and torch.allclose(ours(x), hf(x), atol=1e-4)
        and not torch.allclose(ours(x), ours(x.flip(1)), atol=1e-4)
    )
    with pytest.raises(ValueError, match="attention_type='divided_space_time'"):
        timesformer_from_hf(hf_video_model(hf_configs(attention_type='space_only')[0]))

def test_hugging_face_errors(tmp_path, monkeypatch):
    tr = pytest.importorskip('transformers')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(
        OSError, match='no such folder with a config.json.*hf download nobody/none.*pass its path'
    ):
        hf_video_model('nobody/none', 3)
    with pytest.raises(ValueError, match='ViTConfig; expected one of TimesformerConfig, VideoMAEConfig'):
        hf_video_model(tr.ViTConfig())
    with pytest.raises(ValueError, match='num_frames=3: expected a multiple of 2'):
        hf_video_model(hf_configs()[1], num_frames=3)
    hf_configs()[0].save_pretrained(tmp_path)                          # a configuration without weights
    with pytest.raises(OSError, match='local folder, or pretrained=False'): hf_video_model(tmp_path)

@pytest.mark.parametrize('package,call', [('timm', lambda: timesformer_from_vit('vit_tiny_patch16_224')), ('transformers', lambda: hf_video_model('x'))])
def test_extras_that_are_not_installed(package, call, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, package, None)
    with pytest.raises(ImportError, match=fr'needs {package}, .*fastai_seq\[{package}\]'): call()
