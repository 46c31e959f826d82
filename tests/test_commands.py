"The commands as a shell sees them: exit status, what is printed, and the same in processes of their own."
import re, shutil, subprocess

import pytest

from fastai_seq import cli
from fastai_seq.data import get_instances

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
    for line, f in zip(res.stdout.strip().splitlines(), files, strict=True): assert re.fullmatch(rf'{f}\tMove(Left|Right)\t[01]\.\d{{3}}', line)

@pytest.mark.parametrize('arch', ['resnet10t', 'mc3_18'])       # timm's, and a video network
@pytest.mark.slow
def test_train_takes_other_networks(clips, tmp_path, arch, capsys):
    ask = ['train', clips, '--out', tmp_path, '--weights', 'none', '--arch', arch, '--epochs', 1, '--size', 32, '--seq_len', 4]
    main = lambda *more: cli.main([*map(str, ask), *more])
    assert main() == 0 and ('lstm' in capsys.readouterr().out) == (arch == 'resnet10t')
    before = (tmp_path/'model.pkl').stat()
    assert main() == 2 and '--force' in capsys.readouterr().err and (tmp_path/'model.pkl').stat() == before      # nothing is lost unasked
    assert main('--force') == 0 and (tmp_path/'model.pkl').stat() != before
    assert main('--force', '--head', 'rnn') == 2

def test_of_two_copies_the_original_is_kept(clips, tmp_path, capsys):
    shutil.copytree(clips, tmp_path/'c')
    first = get_instances(tmp_path/'c')[0]
    shutil.copy(first, first.with_name(f'{first.stem} (1){first.suffix}'))
    assert cli.main(['doctor', str(tmp_path/'c'), '--out', str(tmp_path/'x.txt'), '--workers', '1']) == 1
    assert (tmp_path/'x.txt').read_text().strip() == f'{first.parent.name}/{first.stem} (1){first.suffix}'

@pytest.mark.slow
def test_a_mistake_ends_a_process_without_traceback(tmp_path):
    res = fastai_seq('train', tmp_path/'nowhere')
    assert res.returncode == 2 and res.stderr.startswith('fastai-seq: error: ') and 'Traceback' not in res.stderr

@pytest.mark.parametrize('args', ['predict {tmp}/junk.pkl x.avi', 'predict {tmp}/none.pkl x.avi', 'predict {tmp}/m.onnx x.avi --timeline', 'train {clips} --weights {tmp}/junk.pkl', 'train {clips} --weights {tmp}/none.pth',
    'train {clips} --bs 0', 'train {clips} --bs 99', 'train {clips} --seq_len 0', 'train {clips} --arch resnet', 'train {clips} --head rnn', 'train {tmp}/nowhere', 'train {tmp}'])
def test_mistakes_take_one_line(args, clips, tmp_path, capsys):
    (tmp_path/'junk.pkl').write_text('junk')
    args = args.format(tmp=tmp_path, clips=clips).split() + (['--out', str(tmp_path/'out')] if args.startswith('train') else [])
    assert cli.main(args) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith('fastai-seq: error: ')

@pytest.mark.parametrize('args,named', [('train {clips} --weights none --epochs 0', 'epochs=0'), ('predict m.pkl x.avi --window 1', 'window=1.0'), ('predict m.pkl x.avi --timeline --n_clips 2', 'n_clips=2'),
    ('export m.pkl --bundle {tmp}/b --int8', '--int8 is for --onnx'), ('export m.pkl --onnx {tmp}/m.onnx --notes mine', '--notes are for --bundle')])
def test_options_that_would_count_for_nothing_are_named(args, named, clips, tmp_path, capsys):
    args = args.format(tmp=tmp_path, clips=clips).split() + (['--out', str(tmp_path/'out')] if args.startswith('train') else [])
    assert cli.main(args) == 2 and named in capsys.readouterr().err

@pytest.mark.slow
def test_the_seed_fixes_training(clips, tmp_path, capsys):
    losses = []
    for i,seed in enumerate((5, 5, 6)):
        assert cli.main(['train', str(clips), '--out', str(tmp_path/str(i)), *small, '--seed', str(seed)]) == 0
        losses.append(re.search(r'\[0, ([\d., ]+)', capsys.readouterr().out)[1])
    assert losses[0] == losses[1] != losses[2]

def test_no_file_replaces_a_folder(clips, tmp_path, capsys):
    (tmp_path/'thesis').mkdir(); (tmp_path/'thesis/all.txt').write_text('years')
    assert cli.main(['doctor', str(clips), '--out', str(tmp_path/'thesis'), '--workers', '1']) == 2
    assert 'is a folder' in capsys.readouterr().err and (tmp_path/'thesis/all.txt').read_text() == 'years' and len(list(tmp_path.iterdir())) == 1

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
