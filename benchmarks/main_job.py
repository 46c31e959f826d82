"""The main job, run and put down: `fastai-seq demo`, and `fastai-seq train` on the real gestures of ../shared if they are there.

Writes main_job.md, which README shows: each line is one training, as the command prints it, on the machine named below it.
"""

import tempfile
from functools import partial
from pathlib import Path

from common import line, source
from fastai_seq.commands.demo import demo
from fastai_seq.commands.doctor import doctor
from fastai_seq.commands.train import train

here = Path(__file__).parent
shared = (here/'../../shared').resolve()
weights = str(shared/'weights/mobilenet_v2_imagenet.pth')

rows, jobs = [], {'made clips, 4 motions': demo}
with tempfile.TemporaryDirectory() as tmp:
    if (shared/'gestures').is_dir():
        doctor(str(shared/'gestures'), out=f'{tmp}/exclude.txt')       # six clips are there twice
        gestures = partial(train, str(shared/'gestures'), exclude=f'{tmp}/exclude.txt')
        jobs |= {'real gestures, 8 classes': partial(gestures, weights='none'),
                 'real gestures, 8 classes, local weights': partial(gestures, arch='mobilenet_v2', weights=weights)}
    for i,(data,job) in enumerate(jobs.items()): rows += [{'data': data, **row} for row in job(out=f'{tmp}/{i}')]

(here / 'main_job.md').write_text(
    line(rows[0])
    + line(['---'] * len(rows[0]))
    + ''.join(line(r.values()) for r in rows)
    + "\nAccuracy on held-out recording groups, one training each with the command's default seed;"
    f" {source('torch', 'fastai')}"
)
