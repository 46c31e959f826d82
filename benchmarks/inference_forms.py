"""From a file to a label, in every form a model can take: clips a second, one clip at a time, one thread.

    python benchmarks/inference_forms.py [n_clips]

All forms take turns, clip by clip, on the same made clips; a figure is the median over the clips, a ratio eager/form in the same run
(above 1: the form is faster than eager). `learn.predict` is fastai's way, with its loader for each clip; the other forms read with
the library's reader, and run the model alone."""

import os, sys, tempfile, time, warnings
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault('OMP_NUM_THREADS', '1')
import torch
from fastai.learner import Learner
from torchvision.models import mobilenet_v3_small, resnet18
from common import line, source
from fastai_seq.data.task import Prediction
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.find import get_instances
from fastai_seq.data.datasets import motion_clips
from fastai_seq.deploy.answering import answer_config
from fastai_seq.deploy.export import export_onnx
from fastai_seq.deploy.reading import clips_config
from fastai_seq.deploy.traceable import AnswerGraph
from fastai_seq.train.learner import seq_learner
from fastai_seq.deploy.runtime import OnnxPredictor
from fastai_seq.models.timesformer import MyTimeSformer


def learners(clips):
    "Learners whose weights are random: what they cost does not depend on them"
    load = partial(ImageSeqDataLoaders.from_folder, clips, seq_len=8, bs=4, seed=0)
    yield 'resnet18, lstm, 8 x 112 px', seq_learner(load(size=112), resnet18, head='lstm', pretrained=False)
    yield 'mobilenet_v3_small, gru, 8 x 112 px', seq_learner(
        load(size=112), mobilenet_v3_small, head='gru', pretrained=False
    )
    yield 'MyTimeSformer, 8 x 112 px, dim 256, 6 layers', Learner(
        load(size=112),
        MyTimeSformer(num_classes=2, num_frames=8, image_size=112, dim=256, depth=6, heads=4, dim_head=64),
    )

def forms(learn, tmp):
    "Functions from a path to probabilities, and the size of the file in MB where there is one"
    stats = clips_config(learn.dls.valid)['normalize']
    graph = AnswerGraph(deepcopy(learn.model).eval(), stats, answer_config(learn)['activation']).eval()
    sizes = {
        'ONNX': export_onnx(learn, tmp / 'm.onnx')['bytes'],
        'ONNX, int8': export_onnx(learn, tmp / 'm8.onnx', int8=True)['bytes'],
    }
    run = {'ONNX': OnnxPredictor(tmp/'m.onnx', threads=1), 'ONNX, int8': OnnxPredictor(tmp/'m8.onnx', threads=1)}
    read = run['ONNX'].read
    compiled = torch.compile(graph)
    def torched(net, path, amp=False):
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=amp):
            return net(torch.from_numpy(read(path))[None])[0]
    def predict(path):
        with learn.no_bar(), learn.no_logging(): return learn.predict(path)[2]
    return {
        'eager': partial(torched, graph),
        'learn.predict': predict,
        'compiled': partial(torched, compiled),
        'eager, bf16': partial(torched, graph, amp=True),
        **run,
    }, sizes

def main(n=24):
    text = line(['model', 'form', 'clips/s', 'ms a clip', 'to eager', 'greatest difference', 'MB']) + line(['---']*7)
    print(text, end='')
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        clips = motion_clips(tmp/'clips', n_classes=2, n_groups=4, clips_per_group=3, n_frames=32)
        files = (get_instances(clips)*n)[:n]
        for name, learn in learners(clips):
            fs, sizes = forms(learn, tmp)
            secs, diff = {k: [] for k in fs}, dict.fromkeys(fs, 0.)
            for path in files[:2] + files:
                first = None
                for k,f in fs.items():
                    start = time.perf_counter()
                    p = f(path)
                    secs[k].append(time.perf_counter() - start)
                    p = torch.tensor(list(p.probs.values())) if isinstance(p, Prediction) else p.flatten().float()
                    first = p if first is None else first
                    diff[k] = max(diff[k], float((p - first).abs().max()))
            for k,t in secs.items():
                t, e = t[2:], secs['eager'][2:]
                row = line([
                    name,
                    k,
                    f'{1/median(t):.1f}',
                    f'{median(t)*1e3:.0f}',
                    f'{median(b/a for a,b in zip(t, e)):.2f}x',
                    f'{diff[k]:.1g}',
                    f'{sizes[k]/1e6:.1f}' if k in sizes else '',
                ])
                print(row, end='', flush=True)
                text += row
    head = __doc__.split('\n\n    python')[0]
    (Path(__file__).parent / 'inference_forms.md').write_text(
        f"{head}\n\n{text}\n{source('torch', 'onnxruntime', 'torchvision')}"
    )

if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main(*map(int, sys.argv[1:]))
