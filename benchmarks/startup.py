"""What one waits for before anything happens: seconds of CPU of a fresh process, user and system.

    python benchmarks/startup.py

Processes are interleaved, one after another; medians of 7 of each, after one to warm up the disk's cache."""
import os, resource, subprocess, sys, tempfile
from pathlib import Path
from statistics import median

os.environ |= {'OMP_NUM_THREADS': '1'}
sys.path.insert(0, str(Path(__file__).parent))
from common import line, source
from fastai_seq.video.files import get_videos
from fastai_seq.data.datasets import motion_clips

def cpu_seconds(command):
    "Of the process `command`, which must end well"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

def run(n=7):
    cli, py = 'from fastai_seq.cli import main; main({})'.format, lambda code: [
        sys.executable,
        '-W',
        'ignore',
        '-c',
        code,
    ]
    with tempfile.TemporaryDirectory() as tmp:
        clips = motion_clips(Path(tmp)/'clips', n_classes=2, n_groups=2, clips_per_group=1, n_frames=8, size=32)
        commands = {
            '`fastai-seq --help`': py(cli(['--help'])),
            '`fastai-seq --version`': py(cli(['--version'])),
            '`fastai-seq train --help`': py(cli(['train', '--help'])),
            '`fastai-seq doctor`, 4 tiny clips': py(
                cli(['doctor', str(clips), '--out', f'{tmp}/x.txt', '--workers', '1'])
            ),
            '`fastai-seq extract`, 4 tiny clips': py(
                cli(['extract', str(clips), f'{tmp}/frames', '--force', '--workers', '1'])
            ),
            '`import fastai_seq`': py('import fastai_seq'),
            '`from fastai.vision.all import *`': py('from fastai.vision.all import *'),
            '`from fastai_seq.all import *`': py('from fastai_seq.all import *'),
        }
        assert len(get_videos(clips)) == 4
        times = {k: [] for k in commands}
        for _ in range(n+1):
            for k,c in commands.items(): times[k].append(cpu_seconds(c))
    res = {k: median(t[1:]) for k,t in times.items()}
    fastai, ours = res['`from fastai.vision.all import *`'], res['`from fastai_seq.all import *`']
    rows = ''.join(line([k, f'{s:.2f}']) for k, s in res.items()) + line(
        ['what ours adds to fastai', f'{ours - fastai:.2f}']
    )
    return line(['started', 'CPU s']) + line(['---', '---']) + rows

if __name__ == '__main__':
    text = f"{run()}\n{source('torch', 'fastai')}"
    print(text)
    Path(__file__).with_suffix('.md').write_text(text)
