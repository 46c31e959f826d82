"""What can be exported: every head, every kind of network, tried.

    python benchmarks/exports.py [name …]

Each model, of random weights, is written as ONNX and as a program of torch.export, opened, run, and compared with the model itself;
a row says the greatest difference of an answer, whether clips of any length are taken, or why it cannot be done. Image networks see
4 frames of 32 pixels, video networks as many as they need. What a user's model gives is told by `export_onnx` itself, which tries
the same. (Seconds a row; minutes in all.)"""

import os, sys, tempfile, warnings
from functools import partial
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '2')
warnings.simplefilter('ignore')
import matplotlib
matplotlib.use('agg')
import timm, transformers
from common import line, source
from torchvision.models import mobilenet_v3_small, video
from fastai_seq.all import *
from fastai_seq.models.heads import head_classes

cnn = partial(SimpleCNN, [3,8,16])

def heads():
    "A learner for each head, over a small image network"
    narrow = dict.fromkeys(
        ('attention', 'lstm', 'gru', 'convlstm', 'convgru', 'diff'), dict(hidden_size=16)
    ) | dict(transformer=dict(dim=16, depth=1))
    for h in head_classes:
        yield (
            h,
            partial(
                create_seq_model,
                'resnet10t' if h == 'shift' else cnn,
                2,
                h,
                pretrained=False,
                **narrow.get(h, {}),
            ),
            {},
        )
    yield (
        'lstm, both ways, pool_size=2',
        partial(
            create_seq_model,
            cnn,
            2,
            'lstm',
            pretrained=False,
            hidden_size=16,
            bidirectional=True,
            pool_size=2,
        ),
        {},
    )
    for arch in (resnet18, mobilenet_v3_small, 'convnext_atto', 'vit_tiny_patch16_224'):
        px = 224 if arch == 'vit_tiny_patch16_224' else 64
        yield (
            f"{getattr(arch, '__name__', arch)}, gru",
            partial(create_seq_model, arch, 2, 'gru', pretrained=False, hidden_size=16),
            dict(size=px),
        )

def networks():
    "Video networks and transformers"
    for arch in (video.r3d_18, video.mc3_18, video.r2plus1d_18, video.s3d):
        yield arch.__name__, partial(create_seq_model, arch, 2, pretrained=False), dict(seq_len=16, size=64)
    for arch in (video.mvit_v1_b, video.mvit_v2_s):
        yield (
            arch.__name__,
            partial(create_seq_model, arch, 2, pretrained=False, seq_len=8, size=64),
            dict(seq_len=8, size=64),
        )
    yield 'swin3d_t', partial(create_seq_model, video.swin3d_t, 2, pretrained=False), dict(seq_len=8, size=64)
    yield (
        'MyTimeSformer',
        partial(
            MyTimeSformer,
            num_classes=2,
            num_frames=4,
            image_size=32,
            patch_size=8,
            dim=16,
            depth=1,
            heads=2,
            dim_head=8,
            shift_tokens=True,
        ),
        {},
    )
    vit = lambda: timm.create_model(
        'vit_tiny_patch16_224', img_size=32, patch_size=8, depth=1, embed_dim=24, num_heads=2
    )
    for attention in ('divided', 'joint', 'space'):
        yield (
            f'timesformer_from_vit, {attention}',
            lambda attention=attention: timesformer_from_vit(vit(), 2, num_frames=4, attention=attention),
            {},
        )
    small = dict(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    yield 'TimeSformer of transformers', lambda: hf_video_model(transformers.TimesformerConfig(**small), n_out=2), {}
    yield (
        'VideoMAE of transformers',
        lambda: hf_video_model(transformers.VideoMAEConfig(**small, tubelet_size=2), n_out=2),
        {},
    )

def sequences(tmp):
    "Models that answer with a sequence"
    digits = FutureDataLoaders.from_digits(4, 3, size=32, digit_size=14, n_train=4, n_valid=4, bs=4, num_workers=0)
    for make, kwargs in (
        (SimVP, dict(hid_s=4, hid_t=16, n_s=2, n_t=2, kernels=(3,), groups=2)),
        (ConvLSTMForecaster, dict(hidden=[8])),
        (ConvGRUForecaster, dict(hidden=[8])),
    ):
        yield make.__name__, lambda make=make, kwargs=kwargs: seq_learner(digits, make, **kwargs)
    path = changing_clips(tmp/'changing', n_groups=4, clips_per_group=2, n_frames=12)
    labels = ImageSeqDataLoaders.from_path_func(
        path,
        get_videos(path),
        frame_labels,
        y_block=FrameCategoryBlock,
        seq_len=4,
        size=32,
        bs=4,
        num_workers=0,
    )
    for h in ('lstm', 'gru', 'convlstm', 'convgru', 'transformer'):
        yield f'per_frame, {h}', lambda h=h: seq_learner(labels, cnn, head=h, pretrained=False)

def tried(write, learn, file):
    "What came of it, in words"
    try: r = write(learn, file)
    except ValueError as e: return str(e).split('\n')[0].replace('|', '/')[:120]
    return f"{r['difference']:.0e}, clips of {'any' if r['any_length'] else 'one'} length"

def row(name, make, tmp):
    try: learn = make()
    except ValueError as e: return line([name, f'cannot be made so: {str(e)[:100]}', ''])
    return line([name, tried(export_onnx, learn, tmp/'m.onnx'), tried(export_program, learn, tmp/'m.pt2')])

def learners(tmp):
    clips = motion_clips(tmp/'clips', n_classes=2, n_groups=4, clips_per_group=1, n_frames=16)
    loaded = lambda make, kw: Learner(
        ImageSeqDataLoaders.from_folder(clips, **dict(seq_len=4, size=32, bs=2, seed=0, num_workers=0) | kw),
        make(),
    )
    for name, make, kw in (*heads(), *networks()): yield name, partial(loaded, make, kw)
    yield from sequences(tmp)

if __name__ == '__main__':
    text = line(['model', 'ONNX', 'torch.export']) + line(['---']*3)
    with tempfile.TemporaryDirectory() as tmp:
        for name, make in learners(Path(tmp)):
            if sys.argv[1:] and name not in sys.argv[1:]: continue
            text += row(name, make, Path(tmp))
            print(text.splitlines()[-1], flush=True)
    text += '\n' + source('torch', 'onnx', 'onnxruntime', 'onnxscript')
    if not sys.argv[1:]: (Path(__file__).parent/'exports.md').write_text(text)
