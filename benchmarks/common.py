"What all benchmarks write alike: a line of a table, and with what, where and when it was measured."
import datetime, os, platform, re, sys
from importlib.metadata import version
from pathlib import Path

import fastai_seq

def line(cells): return f"| {' | '.join(map(str, cells))} |\n"

def machine(gpu=None):
    "The processor by its name, and the GPU that is used, if one is"
    cpu = re.search(r'model name\s*:\s*(.*)', info.read_text()) if (info := Path('/proc/cpuinfo')).exists() else None
    return (
        f"{os.cpu_count()} cores of {cpu[1] if cpu else platform.processor() or platform.machine()},"
        f" {gpu or 'no GPU'}"
    )

def source(*packages, gpu=None):
    "The last line of a result: machine, versions, date, and the file that wrote it"
    versions = ', '.join(f'{p} {version(p)}' for p in packages)
    return (
        f"{machine(gpu)}; Python {platform.python_version()}, {versions}, fastai_seq"
        f" {fastai_seq.__version__}; {datetime.date.today()}. Written by"
        f" `benchmarks/{Path(sys.argv[0]).name}`, which tells the method.\n"
    )

def write_sections(file, title, sections, names, source):
    "Run `names` of `sections` (all, if none) and put them into `file`, which keeps the others"
    kept = dict(re.findall(r'## (\w+)\n\n([\s\S]*?)(?=\n## |\Z)', file.read_text())) if file.exists() else {}
    for name in names or sections:
        kept[name] = f'{sections[name].__doc__}.\n\n{sections[name]()}\n{source}'
        file.write_text(f'# {title}\n\n' + '\n'.join(f'## {n}\n\n{kept[n]}' for n in sections if n in kept))
