"""What was aimed at, and what was reached: a row a target, read from the results beside this file; rewrites the end of README.md here.

    python benchmarks/targets.py

Where a target is for several cases, the worst counts and all are shown."""

import re
from pathlib import Path

import pandas as pd
from common import line

here = Path(__file__).parent
heading = '## Targets\n'

def tables(name):
    "The tables of a result as data frames of text"
    blocks = re.findall(r'(?:^\|.*\|\n)+', (here/f'{name}.md').read_text(), re.M)
    rows = [[[c.strip() for c in l[1:-1].split('|')] for l in b.splitlines()] for b in blocks]
    return [pd.DataFrame(r[2:], columns=r[0]) for r in rows]

def numbers(cells): return [float(re.search(r'-?\d+(\.\d+)?', c)[0]) for c in cells]

def where(df, column, pattern): return df[df[column].str.contains(pattern)]

def main_job():
    df, = tables('main_job')
    made = where(df, 'data', 'made')
    accuracy = dict(zip(made.model, numbers(made.accuracy)))
    yield 'demo: LSTM, TimeSformer on held-out groups', '≥', .95, [accuracy['LSTM'], accuracy['TimeSformer']]
    yield 'demo: mean over frames, chance 0.25', '≤', .35, [accuracy['mean over frames']]
    yield 'demo: seconds of training', '≤', 240, [sum(numbers(made.seconds))]

def extraction():
    ways, reading = tables('extraction')
    of = lambda pattern, column: numbers(where(ways, 'way', pattern)[column])
    speed, theirs = "against the walk-through's", "walk-through's"
    yield "full size, against the walk-through's function", '≥ x', 1.8, of('ours$', speed)
    yield 'size=128, against the same', '≥ x', 2.5, of('size=128', speed)
    yield (
        "full size, against FFmpeg's command",
        '≥ x',
        1.5,
        [a / b for a, b in zip(of('ours$', 'frames/s'), of('ffmpeg', 'frames/s'))],
    )
    yield (
        'bytes a frame, against the walk-through\'s',
        '≤ x',
        1,
        [a / b for a, b in zip(of('ours$', 'bytes a frame'), of(theirs, 'bytes a frame'))],
    )
    yield (
        "PSNR, dB above the walk-through's",
        '≥',
        -0.7,
        [a - b for a, b in zip(of('ours$', "PSNR, FFmpeg's RGB, dB"), of(theirs, "PSNR, FFmpeg's RGB, dB"))],
    )
    two, peak = re.search(r'two [\d.]+ s, ([\d.]+)x.*: (\d+) MB', (here/'extraction.md').read_text()).groups()
    yield 'two processes, against one', '≥ x', 1.8, [float(two)]
    yield 'peak memory of a worker, MB', '≤', 300, [float(peak)]
    best = (
        where(reading, 'reader', '^(?:decord|torchcodec)$')
        .assign(ratio=lambda d: numbers(d['ours is faster by']))
        .groupby('16 uniform frames, 112 pixels', sort=False)
        .ratio.min()
    )
    yield 'reading 16 frames, against the better of torchcodec and decord', '≥ x', 1, list(best)

def loading():
    times, _, memory = tables('loading')
    cols = [c for c in times if c.endswith('px')]
    of = lambda columns: {r.iloc[0][:3]: numbers(columns(r)) for _,r in times.iterrows() if r.iloc[0][0] == '('}
    ms, faster = of(lambda r: r[cols]), of(lambda r: r['ratio'])
    over = lambda a, b: [x/y for x,y in zip(ms[a], ms[b])]
    for size, ratio, aim in zip(cols, faster['(b)'], (5, 3.3, 1.6)):
        yield f"JPEG folders, {size}, against the walk-through's pipeline", '≥ x', aim, [ratio]
    yield 'straight from video, against torchcodec, three sizes', '≥ x', 1, over('(e)', '(c)')
    yield 'straight from video, against decord', '≥ x', 1, over('(f)', '(c)')
    yield "straight from video, 16 x 112 px, against the walk-through's folders", '≥ x', 1, faster['(c)'][1:2]
    yield "cached, against the walk-through's folders", '≥ x', 20, faster['(d)']
    first, *_, last = numbers(memory.iloc[0, 1:])
    yield 'memory after 50 epochs, against 5', '≤ x', 1.02, [last/first]

def models():
    heads, former, peak, video, _ = tables('models')
    steps = former.assign(step=numbers(former.ratio.iloc[:, 1]))
    ours = where(steps, 'network', '^TimeSformer')
    yield (
        'TimeSformer, training step in fp32, against timesformer-pytorch',
        '≥ x',
        1.3,
        list(where(ours, 'batch', 'fp32').step),
    )
    yield 'TimeSformer, training step in bf16, against the same', '≥ x', 1.8, list(where(ours, 'batch', 'bf16').step)
    large = where(peak, 'peak memory of a training step', '512')
    yield 'TimeSformer, 224 px, peak memory, fp32 and bf16', '≤ x', .7, numbers(large.ratio)
    yield (
        "mean and LSTM, training step, against the walk-through's (1x, 3% is noise)",
        '≥ x',
        0.97,
        numbers(heads.ratio.iloc[:, 1]),
    )
    yield (
        "video networks, training step, against torchvision's own (1x, 3% is noise)",
        '≥ x',
        0.97,
        numbers(video.ratio.iloc[:, 1]),
    )
    yield (
        "TimeSformer from a ViT, training step, against transformers', fp32 and bf16 (1x, 3% is noise)",
        '≥ x',
        0.97,
        list(where(steps, 'network', 'from_vit').step),
    )

def motion():
    df, = tables('motion')
    blind = df['head'].isin(['mean', 'avg', 'max', 'attention'])
    yield 'heads that see order, accuracy', '≥', .97, numbers(df[~blind]['as they are'])
    yield (
        'the same, frames shuffled: away from chance within pairs',
        '≤',
        0.07,
        [abs(n - 0.5) for n in numbers(df[~blind]['shuffled, within pairs'])],
    )
    yield (
        'heads blind to order: away from chance within pairs',
        '≤',
        0.07,
        [abs(n - 0.5) for n in numbers(df[blind]['as they are, within pairs'])],
    )

def accuracy():
    df = tables('accuracy')[0].set_index('data')
    wanted = dict(gestures=.8, lips_takes=.6, lips_speakers=.25, falls=.95, motion=.97)
    for data in df.index:
        yield f'{data}, by `train_clips`', '≥', wanted[data], numbers(df.loc[[data], '**train_clips**'])

def inference():
    yield '`predict_timeline`, against `learn.predict` on each window', '≥ x', 5, numbers(tables('inference')[0].ratio)

def inference_forms():
    yield 'ONNX, against eager', '≥ x', 1, numbers(where(tables('inference_forms')[0], 'form', '^ONNX$')['to eager'])

def startup():
    df, = tables('startup')
    cpu = lambda what: numbers(where(df, 'started', what)['CPU s'])
    yield 'CPU seconds of `fastai-seq --help`', '≤', .7, cpu('fastai-seq --help')
    yield 'CPU seconds that our import adds to `fastai.vision.all`', '≤', .3, cpu('what ours adds')

def seq2seq():
    df, = tables('seq2seq')
    yield (
        'SimVP, percent under copying the last frame',
        '≥',
        40,
        numbers(where(df, 'forecast', 'SimVP')['under copy-last']),
    )

def row(name, what, sign, aim, values):
    reached = min(values) >= aim if '≥' in sign else max(values) <= aim
    shown = lambda v: f'{v:.3g}' if abs(v) < 1000 else f'{v:.0f}'
    return line([
        what,
        f'{sign[0]} {shown(aim)}{sign[2:]}',
        ', '.join(shown(v) + sign[2:] for v in values),
        'yes' if reached else '**no**',
        f'[{name}]({name}.md)',
    ])

def text():
    rows = [
        row(f.__name__, *target)
        for f in (
            main_job,
            extraction,
            loading,
            models,
            motion,
            accuracy,
            inference,
            inference_forms,
            seq2seq,
            startup,
        )
        for target in f()
    ]
    results = [p for p in sorted(here.glob('*.md')) if p.name != 'README.md']
    told = {m for p in results for m in re.findall(r'\d+ cores of [^;]*|\d{4}-\d\d-\d\d(?=\. Written)', p.read_text())}
    return (
        f"{heading}\nWritten by `benchmarks/targets.py` from the results. Measured on"
        f" {', '.join(sorted(told, reverse=True))}; versions and what else there is to say stand below each"
        " result, the method in each file. Where a target is for several cases, all are shown and the worst"
        " counts.\n\n"
        + line(['what', 'target', 'reached', 'is it?', 'result'])
        + line(['---'] * 5)
        + ''.join(rows)
    )

if __name__ == '__main__':
    readme = here/'README.md'
    readme.write_text(readme.read_text().split(heading)[0] + text())
    print(text())
