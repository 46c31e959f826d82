"The commands as a shell sees them: exit status, what is printed, and the same in processes of their own."
import os, re, shutil, subprocess, sys

import pytest

from fastai_seq import cli
from fastai_seq.data.find import get_instances

small = ('--weights', 'none', '--arch', 'squeezenet1_1', '--epochs', '1', '--size', '32', '--seq_len', '2')

def fastai_seq(*args): return subprocess.run(['fastai-seq', *map(str, args)], capture_output=True, text=True)

def test_train_and_predict_in_fresh_processes(clips, tmp_path):
    res = fastai_seq('train', clips, '--out', tmp_path, *small)
    assert res.returncode == 0, res.stderr
    assert re.search(r'squeezenet1_1, lstm, from scratch +[01]\.\d{3} +18 +6 ', res.stdout)
    assert 'Warning' not in res.stderr
    files = get_instances(clips)[:2]
    res = fastai_seq('predict', tmp_path/'model.pkl', *files)
    assert res.returncode == 0, res.stderr
    for line, f in zip(res.stdout.strip().splitlines(), files, strict=True):
        assert re.fullmatch(rf'{f}\tMove(Left|Right)\t[01]\.\d{{3}}', line)

@pytest.mark.parametrize('arch', ['resnet10t', 'mc3_18'])       # timm's, and a video network
@pytest.mark.slow
def test_train_takes_other_networks(clips, tmp_path, arch, capsys):
    ask = [
        'train',
        clips,
        '--out',
        tmp_path,
        '--weights',
        'none',
        '--arch',
        arch,
        '--epochs',
        1,
        '--size',
        32,
        '--seq_len',
        4,
    ]
    main = lambda *more: cli.main([*map(str, ask), *more])
    assert main() == 0 and ('lstm' in capsys.readouterr().out) == (arch == 'resnet10t')
    before = (tmp_path/'model.pkl').stat()
    assert (
        main() == 2 and '--force' in capsys.readouterr().err and (tmp_path / 'model.pkl').stat() == before
    )  # nothing is lost unasked
    assert main('--force') == 0 and (tmp_path/'model.pkl').stat() != before
    assert main('--force', '--head', 'rnn') == 2

def test_of_two_copies_the_original_is_kept(clips, tmp_path, capsys):
    shutil.copytree(clips, tmp_path/'c')
    first = get_instances(tmp_path/'c')[0]
    shutil.copy(first, first.with_name(f'{first.stem} (1){first.suffix}'))
    assert cli.main(['doctor', str(tmp_path/'c'), '--out', str(tmp_path/'x.txt'), '--workers', '1']) == 1
    assert (tmp_path/'x.txt').read_text().splitlines()[1:] == [f'{first.parent.name}/{first.stem} (1){first.suffix}']

@pytest.mark.slow
def test_a_mistake_ends_a_process_without_traceback(tmp_path):
    res = fastai_seq('train', tmp_path/'nowhere')
    assert res.returncode == 2 and res.stderr.startswith('fastai-seq: error: ') and 'Traceback' not in res.stderr

@pytest.mark.parametrize('args', ['predict {tmp}/junk.pkl x.avi', 'predict {tmp}/none.pkl x.avi', 'predict {tmp}/m.onnx x.avi --timeline', 'train {clips} --weights {tmp}/junk.pkl', 'train {clips} --weights {tmp}/none.pth',
    'train {clips} --bs 0', 'train {clips} --bs 99', 'train {clips} --seq_len 0', 'train {clips} --arch resnet', 'train {clips} --head rnn', 'train {tmp}/nowhere', 'train {tmp}'])
def test_mistakes_take_one_line(args, clips, tmp_path, capsys):
    (tmp_path/'junk.pkl').write_text('junk')
    args = args.format(tmp=tmp_path, clips=clips).split() + (
        ['--out', str(tmp_path / 'out')] if args.startswith('train') else []
    )
    assert cli.main(args) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith('fastai-seq: error: ')

@pytest.mark.parametrize('args,named', [('train {clips} --weights none --epochs 0', 'epochs=0'), ('train {clips} --weights none --split random --valid_pct 0', 'valid_pct=0.0'), ('predict m.pkl x.avi --window 1', 'window=1.0'), ('predict m.pkl x.avi --timeline --n_clips 2', 'n_clips=2'),
    ('export m.pkl --bundle {tmp}/b --int8', '--int8 is for --onnx'), ('export m.pkl --onnx {tmp}/m.onnx --notes mine', '--notes are for --bundle')])
def test_options_that_would_count_for_nothing_are_named(args, named, clips, tmp_path, capsys):
    args = args.format(tmp=tmp_path, clips=clips).split() + (
        ['--out', str(tmp_path / 'out')] if args.startswith('train') else []
    )
    assert cli.main(args) == 2 and named in capsys.readouterr().err

@pytest.mark.slow
def test_the_seed_fixes_training(clips, tmp_path, capsys):
    losses = []
    for i,seed in enumerate((5, 5, 6)):
        assert cli.main(['train', str(clips), '--out', str(tmp_path/str(i)), *small, '--seed', str(seed)]) == 0
        losses.append(re.search(r'^0 +([\d.]+ +[\d.]+)', capsys.readouterr().out, re.M)[1])
    assert losses[0] == losses[1] != losses[2]

def test_no_file_replaces_a_folder(clips, tmp_path, capsys):
    (tmp_path/'thesis').mkdir()
    (tmp_path/'thesis/all.txt').write_text('years')
    assert cli.main(['doctor', str(clips), '--out', str(tmp_path/'thesis'), '--workers', '1']) == 2
    assert (
        'is a folder' in capsys.readouterr().err
        and (tmp_path / 'thesis/all.txt').read_text() == 'years'
        and len(list(tmp_path.iterdir())) == 1
    )

@pytest.fixture(scope='module')
def split(clips, tmp_path_factory):
    "Data that come split: the recordings g02 are to validate on"
    path = tmp_path_factory.mktemp('split')
    for f in get_instances(clips):
        to = path/('valid' if 'g02' in f.name else 'train')/f.parent.name
        to.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, to)
    return path

@pytest.mark.slow
def test_data_that_come_split_stay_so(split, tmp_path):
    assert cli.main(['train', str(split), '--out', str(tmp_path/'t'), *small]) == 0
    assert set(re.findall(r'_g0(\d)', (tmp_path/'t/report.html').read_text())) == {'2'}
    assert cli.main(['extract', str(split), str(tmp_path/'f'), '--size', '16', '--workers', '1']) == 0
    assert {p.name: len(get_instances(p)) for p in (tmp_path/'f').iterdir()} == {'train': 18, 'valid': 6}

def test_exclude_lists_of_odd_names(clips, tmp_path):
    shutil.copytree(clips, tmp_path/'c')
    (tmp_path/'c/MoveLeft').rename(tmp_path/'c/#1')
    bad = get_instances(tmp_path/'c')[0]
    bad.write_text('no video')
    assert cli.main(['doctor', str(tmp_path/'c'), '--out', str(tmp_path/'x.txt'), '--workers', '1']) == 1
    assert bad.parent.name == '#1' and bad not in get_instances(tmp_path/'c', tmp_path/'x.txt')

@pytest.fixture(scope='module')
def trained(clips, tmp_path_factory):
    "What the commands leave: model.pkl, report.html, m.onnx, the bundle b, a page and the list x.txt"
    out = tmp_path_factory.mktemp('trained')
    for words in (
        ['train', clips, '--out', out, *small],
        ['export', out / 'model.pkl', '--onnx', out / 'm.onnx', '--bundle', out / 'b'],
        ['predict', out / 'model.pkl', get_instances(clips)[0], '--html', '--out', out],
        ['doctor', clips, '--workers', 1, '--out', out / 'x.txt'],
    ):
        assert cli.main([*map(str, words)]) == 0, words
    return out

heavy = ('torch', 'fastai', 'matplotlib', 'IPython', 'sklearn')

@pytest.mark.parametrize('command,more', [('--help', ('pandas', 'numpy', 'av')), ('--version', ('pandas', 'numpy', 'av')), ('train --help', ('pandas', 'numpy', 'av')), ('predict --help', ('pandas', 'numpy', 'av')),
    ('doctor {clips} --out {tmp}/x.txt --workers 1', ()), ('extract {clips} {tmp}/frames --size 16 --workers 1', ()), ('predict {trained}/m.onnx {clip}', ('pandas',))])
def test_what_needs_no_network_does_not_wait_for_one(command, more, clips, trained, tmp_path):
    words = command.format(clips=clips, tmp=tmp_path, trained=trained, clip=get_instances(clips)[0]).split()
    code = f"""import sys
from fastai_seq.cli import main
try: status = main({words})
except SystemExit as e: status = e.code
print('loaded', status, [m for m in {heavy + more} if m in sys.modules])"""
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert res.stdout.splitlines()[-1] == 'loaded 0 []', res.stdout + res.stderr

@pytest.mark.parametrize('code', ['from fastai_seq.all import *', 'from fastai_seq.cli import main; main(["predict", "{trained}/model.pkl", "{clip}"])'])
def test_nobody_is_warned_of_what_only_fastai_can_change(code, trained, clips):
    code = code.format(trained=trained, clip=get_instances(clips)[0])
    res = subprocess.run(
        [sys.executable, '-W', 'default', '-c', code],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != 'PYTHONWARNINGS'},
    )
    assert res.returncode == 0 and 'Warning' not in res.stderr, res.stderr

def test_a_training_is_told_in_aligned_columns(clips, tmp_path, capsys):
    assert cli.main(['train', str(clips), '--out', str(tmp_path), *small[:5], '2', *small[6:]]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i,l in enumerate(lines) if l.startswith('epoch'))
    assert re.fullmatch(r'about \d+ s for 2 epochs', lines[at-1])
    assert lines[at].split() == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time', 'left']
    starts = [m.start() for m in re.finditer(r'\S+', lines[at])]
    for l in lines[at+1:at+3]:
        assert re.fullmatch(r'\d +(\d+\.\d{6} +){3}\d\d:\d\d +\d\d:\d\d', l)
        assert [m.start() for m in re.finditer(r'\S+', l)] == starts
    assert not any('\r' in l for l in lines) and lines[at+2].endswith('00:00')

@pytest.mark.parametrize('command', ['doctor {clips} --workers 1 --out {f}', 'export {trained}/model.pkl --onnx {f}', 'predict {trained}/model.pkl {clip} --html --out {tmp}/html',
    'train {clips} --out {tmp}/html {small}', 'demo --out {tmp}/html'])
def test_a_file_that_is_not_ours_is_not_replaced(command, clips, trained, tmp_path, capsys):
    clip, f = get_instances(clips)[0], tmp_path/'clip.avi'
    shutil.copy(clip, f)
    (tmp_path/'html').mkdir()
    for n in (f'{clip.name}.html', 'report.html'): (tmp_path/'html'/n).write_text('years of work')
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    words = command.format(clips=clips, trained=trained, f=f, tmp=tmp_path, clip=clip, small=' '.join(small)).split()
    assert cli.main(words) == 2
    said, = capsys.readouterr().err.splitlines()
    assert said.startswith('fastai-seq: error: ') and '--force' in said and str(tmp_path) in said
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before
    if not words[0] in ('train', 'demo'):
        assert cli.main([*words, '--force']) == 0 and any(p.read_bytes() != b for p, b in before.items())

@pytest.mark.slow
def test_what_is_ours_is_replaced(clips, trained, tmp_path):
    "By the same command again, without --force"
    old, clip = tmp_path/'old', get_instances(clips)[0]
    shutil.copytree(trained, old)
    for words in (
        ['doctor', clips, '--workers', 1, '--out', old / 'x.txt'],
        ['export', trained / 'model.pkl', '--onnx', old / 'm.onnx', '--bundle', old / 'b', '--int8'],
        ['export', trained / 'model.pkl', '--onnx', old / 'm.onnx'],
        ['predict', trained / 'model.pkl', clip, '--html', '--out', old],
    ):
        assert cli.main([*map(str, words)]) == 0, words

breaks = dict(
    full="""import resource, uuid
def uuid4():            # the first thing that written_whole asks for: from here on, a write of more than 10 bytes is told as EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
    return uuid.uuid4()
files.uuid4 = uuid4
""",
    interrupted="""def replace(tmp, dest): raise KeyboardInterrupt
files.Path.replace = replace""",
)

@pytest.mark.parametrize('command', ['train {clips} --out {old} --force {small}', 'doctor {clips} --workers 0 --out {old}/x.txt', 'export {trained}/model.pkl --onnx {old}/m.onnx',
    'export {trained}/model.pkl --bundle {old}/b', 'predict {trained}/model.pkl {clip} --html --out {old}'])
@pytest.mark.parametrize('how', ['full', 'interrupted'])
@pytest.mark.slow
def test_of_a_full_disk_and_an_interruption_the_old_files_come_out_whole(command, how, clips, trained, tmp_path):
    old, clip = tmp_path/'old', get_instances(clips)[0]
    shutil.copytree(trained, old)
    before = {p: p.read_bytes() for p in old.rglob('*') if p.is_file()}
    words = command.format(clips=clips, old=old, trained=trained, clip=clip, small=' '.join(small)).split()
    code = f"""import sys
import onnxscript, fastai_seq.all           # what other libraries write when they are imported is not the matter
from fastai_seq import cli, utils as files
{breaks[how]}
sys.exit(cli.main({words}))"""
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert res.returncode == dict(full=2, interrupted=130)[how], res.stderr
    said = [l for l in res.stderr.splitlines() if l.startswith('fastai-seq: ')]
    assert (
        len(said) == 1
        and 'Traceback' not in res.stderr
        and (how == 'interrupted' or words[0] == 'predict' or str(old) in said[0])
    ), res.stderr
    assert {p: p.read_bytes() for p in old.rglob('*') if p.is_file()} == before

def test_a_disk_without_room_for_the_model_is_told_before_training(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10**6, 10**6-1000, 1000))
    assert cli.main(['train', str(clips), '--out', str(tmp_path), *small]) == 2
    res = capsys.readouterr()
    assert f'fastai-seq: error: {tmp_path}' in res.err and 'train_loss' not in res.out and not list(tmp_path.iterdir())

def test_minutes_tell_what_was_tried(clips, tmp_path, capsys):
    args = ['train', str(clips), '--out', str(tmp_path), '--minutes', '.02', '--weights', 'none', '--size', '32', '--seq_len', '4']
    assert cli.main(args) == 0
    for text in (capsys.readouterr().out, (tmp_path/'report.html').read_text()):
        assert 'accuracy on folds' in text and 'linear floor' in text and 'majority class' in text
    assert cli.main(['predict', str(tmp_path/'model.pkl'), str(get_instances(clips)[0])]) == 0
