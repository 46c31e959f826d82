"""One draw a clip, for every transform, in both forms.

The oracle is fastai on single images: under the same seed, each frame of a clip must become exactly what fastai makes of that
frame as an image of its own. It follows that equal frames stay equal, and that masks and mirrored copies agree; both are tested too.
"""

import random

import matplotlib.pyplot as plt, numpy as np, pytest, torch
from fastai.torch_core import set_seed
from fastai.vision.all import (
    Brightness,
    Callback,
    CategoryBlock,
    Contrast,
    CropPad,
    CrossEntropyLossFlat,
    CutMix,
    DataBlock,
    DataLoader,
    DataLoaders,
    DeterministicDihedral,
    DeterministicFlip,
    Dihedral,
    DihedralItem,
    Flip,
    FlipItem,
    Hue,
    IntToFloatTensor,
    Learner,
    MixUp,
    Normalize,
    PILImage,
    Pipeline,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    RandomResizedCropGPU,
    RatioResize,
    Resize,
    Rotate,
    Saturation,
    TensorImage,
    ToTensor,
    TransformBlock,
    Warp,
    Zoom,
    aug_transforms,
    imagenet_stats,
    parent_label,
)
from torch import nn

from fastai_seq.data.augment import DropFrames, RandomStride, ReverseTime, SpeedJitter
from fastai_seq.core import ImageTuple, TensorVideo, stack_frames
from fastai_seq.data.split import GroupSplitter
from fastai_seq.data.block import ImageSeqBlock, ImageTupleTfm
from fastai_seq.data.find import get_instances

B, T, H, W = 3, 4, 36, 48
seeds = range(4)
as_tuple = lambda x: ImageTuple(TensorImage(f) for f in x.unbind(-4))
forms = dict(video=lambda x: TensorVideo(x.clone()), tuple=as_tuple)
stacked = lambda x: (
    torch.stack([f.as_subclass(torch.Tensor) for f in x], dim=-4)
    if isinstance(x, ImageTuple)
    else x.as_subclass(torch.Tensor)
)

def smooth(*shape):
    "Random frames without hard edges"
    return (
        nn.functional.interpolate(torch.rand(int(np.prod(shape[:-2])), 1, 6, 8), shape[-2:], mode='bicubic')
        .clamp(0.02, 0.98)
        .reshape(shape)
    )

def run(tfms, x, seed, split_idx=0):
    "`x` beside a label through `tfms`, as in a loader"
    set_seed(seed)
    return Pipeline(tfms, split_idx=split_idx)((x, torch.arange(B)))[0]

# ---------- batch transforms

batch_tfms = dict(
    flip=lambda: [Flip(p=0.5)],
    flip_always=lambda: [Flip(p=1)],
    dihedral=lambda: [Dihedral(p=0.7)],
    rotate=lambda: [Rotate(30, p=0.7)],
    zoom=lambda: [Zoom(0.8, 1.5, p=0.7)],
    warp=lambda: [Warp(0.3, p=0.7)],
    det_flip=lambda: [DeterministicFlip()],
    det_dihedral=lambda: [DeterministicDihedral()],
    sized=lambda: [Rotate(20, p=1, size=24, pad_mode='border')],
    brightness=lambda: [Brightness(0.5, p=0.7)],
    contrast=lambda: [Contrast(0.5, p=0.7)],
    saturation=lambda: [Saturation(0.5, p=0.7)],
    hue=lambda: [Hue(0.3, p=0.7)],
    rrc_gpu=lambda: [RandomResizedCropGPU((20, 24), min_scale=0.2)],
    rrc_valid=lambda: [RandomResizedCropGPU(20, valid_scale=0.8)],
    erasing=lambda: [RandomErasing(p=1, max_count=3)],
    erasing_half=lambda: [RandomErasing(p=0.5)],
    norm=lambda: [Normalize.from_stats(*imagenet_stats, cuda=False)],
    aug=lambda: aug_transforms(),
    aug_all=lambda: aug_transforms(
        2.0,
        flip_vert=True,
        min_zoom=0.7,
        size=24,
        mode='nearest',
        pad_mode='zeros',
        xtra_tfms=[Saturation(0.4), Hue(0.2)],
    ),
    aug_batch=lambda: aug_transforms(batch=True, do_flip=False),
    aug_scale=lambda: aug_transforms(size=24, min_scale=0.5),
    whole=lambda: [
        *aug_transforms(max_lighting=0.5),
        Normalize.from_stats(*imagenet_stats, cuda=False),
        RandomErasing(p=1),
    ],
)

@pytest.mark.parametrize('form', forms)
@pytest.mark.parametrize('name', batch_tfms)
@pytest.mark.slow
def test_batch_transform_is_fastais_on_each_frame(name, form):
    for seed in seeds:
        for split_idx in (0, 1):
            set_seed(seed)
            x = smooth(B, T, 3, H, W)
            out = run(batch_tfms[name](), forms[form](x), seed, split_idx)
            assert type(out) is type(forms[form](x))
            out = stacked(out)
            for t in range(T):
                expected = run(batch_tfms[name](), TensorImage(x[:,t].clone()), seed, split_idx)
                assert out.shape == (B, T, *expected.shape[1:])
                assert torch.allclose(out[:, t], expected.as_subclass(torch.Tensor), atol=1e-5), (
                    name,
                    seed,
                    split_idx,
                    t,
                )
            if name.startswith(('aug', 'whole', 'rrc_gpu')) and split_idx == 0:
                assert out.shape != x.shape or not torch.allclose(out, x)

@pytest.mark.parametrize('form', forms)
@pytest.mark.parametrize('name', batch_tfms)
@pytest.mark.slow
def test_equal_frames_stay_equal_and_clips_differ(name, form):
    differ = False
    for seed in seeds:
        set_seed(seed)
        x = smooth(1, 1, 3, H, W).expand(B, T, -1, -1, -1).contiguous()
        out = stacked(run(batch_tfms[name](), forms[form](x), seed))
        assert (out == out[:,:1]).all()
        differ |= not torch.equal(out[0], out[1])
    assert differ == (
        name not in ('flip_always', 'det_flip', 'det_dihedral', 'rrc_gpu', 'rrc_valid', 'norm', 'aug_batch')
    ), name

@pytest.mark.parametrize('form', forms)
@pytest.mark.slow
def test_masks_and_copies_agree(form):
    "A frame, its mask in white, and its channels in another order, as three frames: after moving pixels they still lie on one another"
    for seed in seeds:
        for name in ('aug', 'flip', 'dihedral', 'rotate', 'zoom', 'warp', 'rrc_gpu', 'aug_scale'):
            set_seed(seed)
            f = smooth(B, 3, H, W)
            tfms = aug_transforms(max_lighting=0) if name == 'aug' else [t for t in batch_tfms[name]() if t.order == 30]
            out = stacked(run(tfms, forms[form](torch.stack([f, 1-f, f[:,[2,0,1]]], 1)), seed))
            assert torch.allclose(out[:, 0], 1 - out[:, 1], atol=1e-5) and torch.allclose(
                out[:, 0, [2, 0, 1]], out[:, 2], atol=1e-5
            )
        for name in ('brightness', 'contrast', 'saturation', 'hue', 'flip', 'flip_always'):
            out = stacked(run(batch_tfms[name](), forms[form](torch.stack([f, f.flip(-1)], 1)), seed))
            assert torch.allclose(out[:,0], out[:,1].flip(-1), atol=1e-5), name

def test_methods_of_an_image():
    set_seed(0)
    x = TensorVideo(smooth(B, B, 3, H, W))       # as many frames as clips: a wrong broadcast would not fail
    for method, kw in (
        ('brightness', {}),
        ('contrast', {}),
        ('saturation', {}),
        ('hue', {}),
        ('flip_batch', {}),
        ('rotate', dict(max_deg=30)),
        ('zoom', {}),
        ('warp', {}),
        ('dihedral_batch', {}),
    ):
        set_seed(1)
        out = getattr(x, method)(**kw)
        assert out.shape == x.shape and out.is_contiguous(), method
        set_seed(1)
        one = getattr(TensorImage(x[:,1]), method)(**kw)
        assert torch.allclose(out[:,1].as_subclass(torch.Tensor), one.as_subclass(torch.Tensor), atol=1e-5), method

# ---------- item transforms

item_tfms = dict(
    resize=lambda: [Resize(24)],
    resize_flat=lambda: [Resize((16, 40))],
    squish=lambda: [Resize((20, 30), 'squish')],
    pad=lambda: [Resize((30, 30), 'pad')],
    pad_zeros=lambda: [Resize((60, 30), 'pad', pad_mode='zeros')],
    pad_border=lambda: [Resize((30, 60), 'pad', pad_mode='border')],
    larger=lambda: [Resize(80)],
    nearest=lambda: [Resize(24, resamples=(0, 0))],
    random_crop=lambda: [RandomCrop(20)],
    random_crop_pad=lambda: [RandomCrop((50, 30))],
    rrc=lambda: [RandomResizedCrop(24)],
    rrc_scale=lambda: [RandomResizedCrop((16, 40), min_scale=0.5, val_xtra=0.3)],
    crop=lambda: [CropPad(20)],
    crop_pad=lambda: [CropPad((60, 30))],
    crop_reflect=lambda: [CropPad((200, 120), pad_mode='reflection')],
    crop_border=lambda: [CropPad(60, pad_mode='border')],
    ratio=lambda: [RatioResize(30)],
    flip=lambda: [FlipItem()],
    dihedral=lambda: [DihedralItem()],
)

def pil_frames(seed, n=T, h=H, w=W):
    set_seed(seed)
    return [PILImage.create((f*255).byte().permute(1,2,0).numpy()) for f in smooth(n, 3, h, w)]

@pytest.mark.parametrize('name', item_tfms)
@pytest.mark.slow
def test_item_transform_is_pils_on_each_frame(name):
    for seed in seeds:
        for split_idx in (0, 1):
            for h, w in ((H, W), (W, H), (37, 91)):
                frames = pil_frames(seed, h=h, w=w)
                one = [np.asarray(run(item_tfms[name](), f, seed, split_idx)) for f in frames]
                tup = run(item_tfms[name](), ImageTuple(frames), seed, split_idx)
                vid = run(item_tfms[name](), TensorVideo.create(frames), seed, split_idx)
                assert type(tup) is ImageTuple and type(vid) is TensorVideo and vid.dtype == torch.uint8
                for a, b, c in zip(one, tup, vid.permute(0,2,3,1).numpy(), strict=True):
                    assert np.array_equal(a, np.asarray(b)), (name, seed, split_idx)
                    assert a.shape == c.shape and np.abs(a.astype(int) - c).max() <= 2, (
                        name,
                        seed,
                        split_idx,
                        (h, w),
                    )  # of 255

@pytest.mark.parametrize('name', item_tfms)
@pytest.mark.slow
def test_frames_that_are_tensors_already(name):
    for seed in seeds:
        frames = pil_frames(seed)
        tens = run(item_tfms[name](), ToTensor()(ImageTuple(frames)), seed)
        assert type(tens) is ImageTuple and {type(f) for f in tens} == {TensorImage}
        assert torch.equal(
            stacked(tens), run(item_tfms[name](), TensorVideo.create(frames), seed).as_subclass(torch.Tensor)
        )

def test_validation_takes_the_centre():
    for t in (Resize(24), RandomCrop(20), RandomResizedCrop(24)):
        for x in (TensorVideo.create(pil_frames(0)), ImageTuple(pil_frames(0))):
            centre = [
                TensorVideo.create(run([t], x, s, 1)) if isinstance(x, ImageTuple) else run([t], x, s, 1)
                for s in seeds
            ]
            drawn = [
                TensorVideo.create(run([t], x, s, 0)) if isinstance(x, ImageTuple) else run([t], x, s, 0)
                for s in seeds
            ]
            assert all((c == centre[0]).all() for c in centre) and any((d != drawn[0]).any() for d in drawn)
    x = TensorVideo.create(pil_frames(0))
    assert (run([RandomCrop(20)], x, 0, 1) == x[..., 8:28, 14:34]).all()

# ---------- transforms of time

temporal = dict(
    reverse=lambda p: ReverseTime(p=p),
    speed=lambda p: SpeedJitter(2, p=p),
    drop=lambda p: DropFrames(0.4, p=p),
    stride=lambda p: RandomStride(4, p=p),
)
numbered = lambda *clips, n=9: torch.arange(n).view(n,1,1,1).expand(*clips,n,3,2,2).contiguous().float()
order = lambda x: stacked(x)[...,0,0,0]

@pytest.mark.parametrize('name', temporal)
@pytest.mark.slow
def test_temporal_transforms(name):
    tfm = temporal[name]
    drawn = set()
    for seed in range(30):
        pil = ImageTuple(PILImage.create(np.full((2,2,3), i, np.uint8)) for i in range(9))
        idxs = [order(run([tfm(0.5)], f(numbered()), seed)).tolist() for f in forms.values()] + [
            [np.asarray(f)[0, 0, 0] for f in run([tfm(0.5)], pil, seed)]
        ]
        assert idxs[0] == idxs[1] == idxs[2] and len(idxs[0]) == 9 and set(idxs[0]) <= set(range(9)), idxs
        assert name == 'reverse' or idxs[0] == sorted(idxs[0])
        drawn.add(tuple(idxs[0]))
        video, tup = (order(run([tfm(.5)], f(numbered(B)), seed)) for f in forms.values())
        assert video.shape == (B, 9) and torch.equal(video, tup)
        for f in forms.values():
            assert torch.equal(
                order(run([tfm(1)], f(numbered()), seed, 1)), torch.arange(9.0)
            )  # none in validation
            assert torch.equal(order(run([tfm(0)], f(numbered()), seed)), torch.arange(9.))
            x = smooth(1, 3, 4, 4).expand(5, -1, -1, -1)
            assert torch.equal(stacked(run([tfm(1)], f(x), seed)), x)
    assert tuple(range(9)) in drawn and len(drawn) > (1 if name == 'reverse' else 5)

def test_clips_of_a_batch_have_draws_of_their_own():
    for tfm in temporal.values():
        assert len({tuple(o) for o in order(run([tfm(0.5)], TensorVideo(numbered(20)), 0)).tolist()}) > 1

def test_two_streams_get_one_draw():
    for tfm in temporal.values():
        set_seed(0)
        a, b, _ = Pipeline([tfm(1)], split_idx=0)((TensorVideo(numbered()), TensorVideo(numbered()+100), 1))
        assert torch.equal(order(a)+100, order(b))
    for seed in range(20):      # of different lengths too
        set_seed(seed)
        a, b, _ = Pipeline([ReverseTime()], split_idx=0)((TensorVideo(numbered()), as_tuple(numbered(n=4)), 1))
        assert (order(a)[0] == 0) == (order(b)[0] == 0) and len(b) == 4

def test_speeds():
    "Half of the clips are slower, half faster; a stride holds its frames equally long"
    rnd = random.Random(0)
    spans = [max(i)-min(i) for i in (SpeedJitter(2, p=1).pick(101, rnd) for _ in range(2000))]
    assert .45 < np.mean(np.array(spans) < 100) < .55 and 50 <= min(spans)
    firsts = [SpeedJitter(2, p=1).pick(101, rnd)[0] for _ in range(2000)]
    assert min(firsts) == 0 and max(firsts) > 40
    assert abs(np.mean([len(set(DropFrames(.3, p=1).pick(101, rnd))) for _ in range(200)]) - 71) < 2
    for _ in range(50):
        idxs = RandomStride(4, p=1).pick(40, rnd)
        runs = np.unique(idxs, return_counts=True)[1][1:-1]
        assert len(set(runs)) == 1 and 2 <= runs[0] <= 4 and all(0 <= i-j < 4 for i, j in enumerate(idxs))

# ---------- normalising, mixing


def loader(x, y, bs=B, **kwargs):
    return DataLoader(
        [(x[i], y[i]) for i in range(len(y))],
        bs=bs,
        create_batch=lambda items: (_collate([i[0] for i in items]), torch.stack([i[1] for i in items])),
        **kwargs,
    )


def _collate(xs):
    return (
        ImageTuple(TensorImage(torch.stack(f)) for f in zip(*xs))
        if isinstance(xs[0], ImageTuple)
        else torch.stack(xs)
    )


@pytest.mark.parametrize('form', forms)
def test_statistics_are_found(form):
    set_seed(0)
    x = smooth(B, T, 3, H, W)*torch.tensor([.2,.5,1.])[:,None,None]
    dl = loader([forms[form](c) for c in x], torch.zeros(B))
    norm = Normalize()
    norm.setup(dl)
    assert torch.allclose(
        norm.mean.flatten(), x.mean((0, 1, 3, 4)), atol=1e-5
    ) and norm.mean.shape == norm.std.shape == (1, 3, 1, 1)
    out = norm(forms[form](x))
    assert torch.allclose(stacked(out).mean((0, 1, 3, 4)), torch.zeros(3), atol=1e-4) and torch.allclose(
        stacked(norm.decode(out)), x, atol=1e-5
    )

class Probe(nn.Module):
    "A model of the mean colour, which keeps what it saw, in training and in validation"
    def __init__(self):
        super().__init__()
        self.lin, self.seen = nn.Linear(3, 2), {True: [], False: []}
    def forward(self, x):
        self.seen[self.training].append(
            torch.stack(list(x), 1) if isinstance(x, (tuple, list)) else x.as_subclass(torch.Tensor)
        )
        return self.lin(self.seen[self.training][-1].transpose(-3, -1).flatten(1, -2).mean(1))

def mixed(mix, items, y, loss, epochs=4):
    "What a model sees in an epoch of one batch, the losses, and the types as they were before fastai makes plain tensors of them"
    class Types(Callback):
        order, run_valid, types = mix.order+1, False, set()
        def before_batch(self): self.types.add(type(self.x))
    set_seed(0)
    model, types = Probe(), Types()
    dls = DataLoaders(*(loader(items, y, bs=len(y)) for _ in range(2)))
    learn = Learner(dls, model, loss_func=loss, cbs=[mix(), types], lr=0.)
    set_seed(1)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    assert len(model.seen[True]) == len(model.seen[False]) == epochs
    return model.seen, learn.recorder.losses, types.types

@pytest.mark.parametrize('one_hot', [False, True])
@pytest.mark.parametrize('form', forms)
@pytest.mark.parametrize('mix', [MixUp, CutMix])
@pytest.mark.slow
def test_mixing_is_fastais_on_each_frame(mix, form, one_hot):
    set_seed(0)
    x, y = smooth(4, T, 3, H, W), torch.arange(4) % 2
    if one_hot: y = torch.eye(2)[y]
    loss = nn.BCEWithLogitsLoss() if one_hot else CrossEntropyLossFlat()
    seen, losses, types = mixed(mix, [forms[form](c) for c in x], y, loss)
    assert types == {TensorVideo if form == 'video' else ImageTuple} and all(map(np.isfinite, losses))
    images = [mixed(mix, [TensorImage(c[t]) for c in x], y, loss)[0] for t in range(T)]
    for i, out in enumerate(seen[True]):
        for t in range(T): assert torch.allclose(out[:,t], images[t][True][i], atol=1e-6)
    assert not all(torch.allclose(out, x) for out in seen[True]) and all(torch.equal(out, x) for out in seen[False])
    # equal frames stay equal, and a film of them is worth what its picture is
    still = x[:,:1].expand_as(x).contiguous()
    seen, losses, _ = mixed(mix, [forms[form](c) for c in still], y, loss)
    assert all(torch.equal(out, out[:,:1].expand_as(out)) for out in seen[True])
    assert np.allclose(losses, mixed(mix, [TensorImage(c[0]) for c in still], y, loss)[1], atol=1e-5)

# ---------- all together

@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('form', forms)
@pytest.mark.slow
def test_from_files_to_a_prediction(form, workers, clips):
    "Every kind of transform in one loader: reproducible under a seed, drawn anew each time, fixed in validation; shown, trained, predicted"
    plt.switch_backend('agg')
    read = dict(
        video=ImageSeqBlock(6, 64),
        tuple=TransformBlock(ImageTupleTfm(6), item_tfms=ToTensor, batch_tfms=IntToFloatTensor),
    )[form]
    block = DataBlock(
        (read, CategoryBlock),
        get_items=get_instances,
        get_y=parent_label,
        splitter=GroupSplitter(seed=1),
        item_tfms=[
            ReverseTime(),
            SpeedJitter(),
            DropFrames(),
            RandomStride(),
            RandomResizedCrop(48, min_scale=0.5),
        ],
        batch_tfms=[
            *aug_transforms(do_flip=False, size=40),
            Normalize.from_stats(*imagenet_stats, cuda=False),
            RandomErasing(),
        ],
    )
    def batches(seed):
        set_seed(seed)
        dls = block.dataloaders(clips, bs=4, num_workers=workers, shuffle=False)
        return dls, [stacked(dl.one_batch()[0]) for dl in dls]
    (dls, (train, valid)), (_, (train2, valid2)), (_, (train3, valid3)) = batches(0), batches(0), batches(1)
    assert train.shape == valid.shape == (4,6,3,40,40)
    assert torch.equal(train, train2) and not torch.allclose(train, train3)
    assert torch.equal(valid, valid2) and torch.equal(valid, valid3)
    dls.show_batch(max_n=4)
    learn = Learner(dls, Probe(), loss_func=CrossEntropyLossFlat(), cbs=[MixUp()])
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        learn.show_results()
        assert learn.tta()[0].shape == (len(dls.valid_ds), 2)
        label, _, probs = learn.predict(dls.valid.items[0])
        assert torch.allclose(probs, learn.get_preds()[0][0], atol=1e-5) and label in dls.vocab
    plt.close('all')
