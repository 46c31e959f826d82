"""How well forecasters continue moving digits: 10 frames to see, 10 to predict, a quarter of an hour of training each.

    python benchmarks/seq2seq.py [--minutes 15] [--only SimVP] [--threads 2] [--device cpu] [--seed 0]

The rules are Moving MNIST's (arXiv 1502.04681): two digits of 28 x 28 in a frame of 64 x 64, a tenth of the free path a frame,
bouncing. The digits are scikit-learn's, drawn between pixels where need be, so the figures are not those of Moving MNIST.
Training clips are new each time; the 500 to judge by are always the same, of digits that training never shows. Each model gets
the same time on the same number of threads (on a CPU processor time, so that other work beside it does not count), batches of 16,
Adam, one cycle over the time it has. Two forecasts need no
training: that nothing moves, and that all goes on as it went in the last frames (the way of each small block is found by
matching, then every pixel goes on along it; it knows of no wall).

With a GPU, `--device cuda --minutes 600` is about as long as is customary. Published MSE a frame on Moving MNIST itself (OpenSTL's
model zoo, arXiv 2306.11249): ConvLSTM 46.3 and, larger, 29.9; PredRNN 25.0; SimVP 32.2 after 200 passes and 21.2 after 2000. That
is hours on a GPU, with models of 15 to 58 million parameters, MNIST's digits, and the test set that everybody uses; here digits are fewer
and smoother, drawn between pixels, and training clips are new each time.

MSE is the sum over the pixels of a frame (4096 of them), as it is customary for this benchmark; the mean of a pixel is in the
library's metrics."""

import argparse, json, os, time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument('--minutes', type=float, default=15, help='training time of each model')
parser.add_argument('--only', nargs='*', default=[], help='names of models; all if none')
parser.add_argument('--threads', type=int, default=2)
parser.add_argument('--device', default='cpu')
parser.add_argument('--seed', type=int, default=0)
parser.add_argument('--valid', type=int, default=500, help='clips to judge by')
args = parser.parse_args()
os.environ['OMP_NUM_THREADS'] = str(args.threads)

import torch
from torch import nn
from torch.nn import functional as F
from fastai.callback.core import Callback, CancelFitException
from fastai.torch_core import set_seed
from fastai_seq.core import stack_frames
from common import line, source
from fastai_seq.models.forecaster import ConvGRUForecaster, ConvLSTMForecaster, Forecaster
from fastai_seq.models.simvp import SimVP
from fastai_seq.train.scheduled import ScheduledSampling
from fastai_seq.train.forecast import copy_last, horizon_errors
from fastai_seq.train.learner import seq_learner
from fastai_seq.data.future import FutureDataLoaders

class SpatiotemporalLSTM(nn.Module):
    "PredRNN's cell: beside its own state `(h, c)` a memory `m` that goes up through the layers, and on to the next frame (Wang et al., NeurIPS 2017)"
    def __init__(self, n_in, n, kernel_size):
        super().__init__()
        conv = lambda a, b, bias=False: nn.Conv2d(a, b, kernel_size, padding=kernel_size//2, bias=bias)
        self.n, self.x, self.h, self.m, self.o, self.last = (
            n,
            conv(n_in, 7 * n, True),
            conv(n, 4 * n),
            conv(n, 3 * n),
            conv(2 * n, n),
            nn.Conv2d(2 * n, n, 1),
        )

    def forward(self, x, state, m):
        x = self.x(x)
        none = x.new_zeros(x.shape[0], self.n, *x.shape[2:])
        h, c = state or (none, none)
        m = none if m is None else m
        (g, i, f, gm, im, fm, o), (gh, ih, fh, oh), (mg, mi, mf) = (
            x.chunk(7, 1),
            self.h(h).chunk(4, 1),
            self.m(m).chunk(3, 1),
        )
        c = (f + fh + 1).sigmoid()*c + (i + ih).sigmoid()*(g + gh).tanh()
        m = (fm + mf + 1).sigmoid()*m + (im + mi).sigmoid()*(gm + mg).tanh()
        both = torch.cat([c, m], 1)
        return (o + oh + self.o(both)).sigmoid()*self.last(both).tanh(), c, m

class PredRNN(Forecaster):
    "Not in the library, as it does not pay: kept to be compared"
    rnn_type = SpatiotemporalLSTM
    def step(self, x, state=None):
        h, (states, m), new = F.pixel_unshuffle(x, self.patch), state or ([None]*len(self.rnns), None), []
        for rnn,s in zip(self.rnns, states):
            h, c, m = rnn(h, s, m)
            new.append((h, c))
        return self._frame([s[0] for s in new]), (new, m)

    def watch(self, x, state=None):
        for frame in x.unbind(1): out, state = self.step(frame, state)
        return out, state

models = {
    'SimVP': (SimVP, {}, 3e-3),
    'ConvLSTM': (ConvLSTMForecaster, {}, 3e-3),
    'ConvGRU': (ConvGRUForecaster, {}, 3e-3),
    'ConvGRU, not sampled': (ConvGRUForecaster, dict(sampled=False), 3e-3),
    'PredRNN': (PredRNN, {}, 3e-3),
}

def block_flow(a, b, reach, window=9):
    "The way from `a` to `b (B,H,W)` of the block around each pixel, whole pixels up to `reach`: `(B,2,H,W)`"
    best, flow = None, None
    for dy in range(-reach, reach+1):
        for dx in range(-reach, reach+1):
            moved = F.pad(b, (reach,)*4)[:, reach+dy:reach+dy+b.shape[1], reach+dx:reach+dx+b.shape[2]]
            cost = (
                F.avg_pool2d((a - moved).abs()[:, None], window, 1, window // 2)[:, 0]
                + 1e-4 * (dy * dy + dx * dx) ** 0.5
            )  # still, where there is nothing to see
            way = torch.stack([torch.full_like(cost, dy), torch.full_like(cost, dx)], 1)
            if best is None:best, flow = cost, way
            else: flow, best = torch.where((cost < best)[:, None], way, flow), torch.minimum(best, cost)
    return flow

def go_on(x, n_out, back=2):
    "Every pixel goes on along its block's way of the last `back` frames: splatted between the four pixels it comes to lie on"
    x = stack_frames(x)[:, :, 0]
    flow = -block_flow(x[:, -1], x[:, -1-back], 4*back + 1)/back         # where it comes from, so the other way round
    (B, H, W), last = x[:, -1].shape, x[:, -1]
    ys, xs = torch.meshgrid(torch.arange(H), torch.arange(W), indexing='ij')
    frames = []
    for k in range(1, n_out+1):
        py, px, out, weight = ys + k*flow[:, 0], xs + k*flow[:, 1], torch.zeros(B, H*W), torch.zeros(B, H*W)
        for oy in (0, 1):
            for ox in (0, 1):
                iy, ix = py.floor() + oy, px.floor() + ox
                w = (
                    (1 - (py - iy).abs())
                    * (1 - (px - ix).abs())
                    * ((iy >= 0) & (iy < H) & (ix >= 0) & (ix < W))
                    * (last + 1e-3)
                )  # the brighter covers the darker
                at = (iy.clamp(0, H-1)*W + ix.clamp(0, W-1)).long().flatten(1)
                out.scatter_add_(1, at, (w*last).flatten(1))
                weight.scatter_add_(1, at, w.flatten(1))
        frames.append((out/weight.clamp(1e-6)).reshape(B, H, W))
    return torch.stack(frames, 1)[:, :, None].expand(-1, -1, 3, -1, -1)

def clock(): return time.process_time()/args.threads if args.device == 'cpu' else time.monotonic()

class ForMinutes(Callback):
    "One cycle over `minutes`: warm up for a tenth, then down along a cosine; ends the training when they are over"
    order = 60
    def __init__(self, minutes, lr): self.secs, self.lr, self.clips = minutes*60, lr, 0
    def before_fit(self): self.start = clock()
    def before_batch(self):
        if not self.training: return
        done = self.learn.pct_train = min(1., (clock() - self.start)/self.secs)
        lr = self.lr*(done/.1 if done < .1 else .5*(1 + torch.cos(torch.tensor(torch.pi*(done - .1)/.9)).item()))
        self.opt.set_hyper('lr', max(lr, self.lr*1e-3))
    def after_batch(self):
        self.clips += len(self.x)*self.training
        if self.training and clock() - self.start >= self.secs: raise CancelFitException

def trial(name, dls):
    make, kwargs, lr = models[name]
    set_seed(args.seed)
    if issubclass(make, Forecaster): kwargs = {'sampled': ScheduledSampling(), **kwargs}
    timer = ForMinutes(args.minutes, lr)
    learn = seq_learner(dls, make, metrics=[], cbs=timer, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    if hasattr(learn.model, 'p_true'): learn.model.p_true = 0.
    return horizon_errors(learn), timer.clips, sum(p.numel() for p in learn.model.parameters())

def row(name, df, base, clips='', params=''):
    mse = df.mse*4096
    return line([
        name,
        f'{mse.mean():.1f}',
        f'{1 - df.mse.mean()/base:.0%}',
        f'{df.mae.mean()*4096:.0f}',
        f'{df.psnr.mean():.2f}',
        f'{df.ssim.mean():.3f}',
        *[f'{mse[k]:.1f}' for k in (1, 5, 10)],
        clips,
        params,
    ])

if __name__ == '__main__':
    here = Path(__file__).parent
    kept = here/'seq2seq.jsonl'     # a trial a line: what was interrupted goes on
    torch.set_num_threads(args.threads)
    dls = FutureDataLoaders.from_digits(
        10, 10, n_train=10**6, n_valid=args.valid, bs=16, num_workers=0, device=torch.device(args.device)
    )
    text = line([
        'forecast',
        'MSE a frame',
        'under copy-last',
        'MAE a frame',
        'PSNR, dB',
        'SSIM',
        'MSE, frame 1',
        'frame 5',
        'frame 10',
        'clips seen',
        'parameters',
    ]) + line(['---'] * 11)
    still = horizon_errors(lambda x: copy_last(x, 10), dls.valid)
    base = still.mse.mean()
    for name, f in {
        'the last frame, copied': lambda x: copy_last(x, 10),
        'nothing but black': lambda x: x * 0,
        'motion goes on': lambda x: go_on(x.cpu(), 10).to(x.device),
    }.items():
        text += row(name, horizon_errors(f, dls.valid), base)
    print(text, flush=True)
    asked = vars(args) | {'only': None}
    for name in models:
        if args.only and name not in args.only: continue
        made = next(
            (
                k['row']
                for k in map(json.loads, kept.read_text().splitlines() if kept.exists() else ())
                if k['name'] == name and k['asked'] == asked
            ),
            None,
        )
        if not made:
            df, clips, params = trial(name, dls)
            made = row(name, df, base, clips, f'{params/1e6:.2f} M')
            with kept.open('a') as f: print(json.dumps(dict(name=name, asked=asked, row=made)), file=f)
        text += made
        print(made, end='', flush=True)
    where = source('torch', 'fastai', gpu=torch.cuda.get_device_name() if args.device.startswith('cuda') else None)
    text += (
        f"\n{args.valid} held-out clips, {args.minutes:g} minutes of training each, {args.threads}"
        f" thread{'s'*(args.threads > 1)}, seed {args.seed}; {where}"
    )
    print(text)
    if not args.only and args.minutes >= 10: (here/'seq2seq.md').write_text(text)
