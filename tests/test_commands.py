"What README tells a user to type, in processes of their own."
import re, subprocess

import pytest

from conftest import root
from fastai_seq import cli
from fastai_seq.data import get_instances

def fastai_seq(*args): return subprocess.run(['fastai-seq', *map(str, args)], capture_output=True, text=True)

def test_train_and_predict_in_fresh_processes(clips, tmp_path):
    res = fastai_seq('train', clips, '--out', tmp_path, '--weights', 'none', '--arch', 'squeezenet1_1', '--epochs', 1, '--size', 64, '--seq_len', 3)
    assert res.returncode == 0, res.stderr
    assert re.search(r'squeezenet1_1, lstm, from scratch +[01]\.\d{3} +18 +6 ', res.stdout)
    assert 'Warning' not in res.stderr
    files = get_instances(clips)[:2]
    res = fastai_seq('predict', tmp_path/'model.pkl', *files)
    assert res.returncode == 0, res.stderr
    for line, f in zip(res.stdout.strip().splitlines(), files, strict=True): assert re.fullmatch(rf'{f}\tMove(Left|Right)\t[01]\.\d{{3}}', line)

@pytest.mark.parametrize('arch', ['resnet10t', 'mc3_18'])       # timm's, and a video network
def test_train_takes_other_networks(clips, tmp_path, arch, capsys):
    ask = ['train', clips, '--out', tmp_path, '--weights', 'none', '--arch', arch, '--epochs', 1, '--size', 32, '--seq_len', 4]
    main = lambda *more: cli.main([*map(str, ask), *more])
    assert main() == 0 and ('lstm' in capsys.readouterr().out) == (arch == 'resnet10t')
    before = (tmp_path/'model.pkl').stat()
    assert main() == 2 and '--force' in capsys.readouterr().err and (tmp_path/'model.pkl').stat() == before      # nothing is lost unasked
    assert main('--force') == 0 and (tmp_path/'model.pkl').stat() != before
    assert main('--force', '--head', 'rnn') == 2

def test_mistakes_take_one_line(clips, tmp_path):
    (tmp_path/'junk.pkl').write_text('junk')
    for args in (['predict', tmp_path/'junk.pkl', 'x.avi'], ['train', clips, '--weights', tmp_path/'junk.pkl'], ['train', clips, '--bs', '0'], ['train', tmp_path/'nowhere'], ['train', tmp_path], ['train', clips, '--seq_len', '0'], ['train', clips, '--arch', 'resnet'],
                 ['train', clips, '--head', 'rnn'], ['train', clips, '--weights', tmp_path/'none.pth'], ['train', clips, '--bs', '99'], ['predict', tmp_path/'none.pkl', 'x.avi']):
        res = fastai_seq(*args, *(['--out', tmp_path/'out'] if args[0] == 'train' else []))
        assert res.returncode == 2 and 'Traceback' not in res.stderr, res.stderr
        assert res.stderr.splitlines()[-1].startswith('fastai-seq: error: '), res.stderr

def test_the_seed_fixes_training(clips, tmp_path):
    runs = [fastai_seq('train', clips, '--out', tmp_path/str(i), '--weights', 'none', '--arch', 'squeezenet1_1', '--epochs', 1, '--size', 32,
                       '--seq_len', 2, '--seed', seed).stdout for i, seed in enumerate((5, 5, 6))]
    losses = [re.search(r'\[0, ([\d., ]+)', r)[1] for r in runs]
    assert losses[0] == losses[1] != losses[2]

def test_the_five_lines_of_readme(monkeypatch, tmp_path):
    "As they stand, but for smaller clips and a download that is random weights"
    import torchvision, fastai_seq.all as lib
    net = torchvision.models.resnet34()
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', lambda *a, **k: net.state_dict())
    small = lib.motion_clips(tmp_path/'c', n_classes=2, n_groups=3, clips_per_group=2, n_frames=8)
    monkeypatch.setattr(lib, 'motion_clips', lambda: small)
    five = re.search(r'```python\n(from fastai_seq.all.*?)```', (root/'README.md').read_text(), re.S)[1]
    assert len(five.strip().splitlines()) == 5
    scope = {}
    exec(five.replace('size=112', 'size=32').replace('fine_tune(3)', 'fine_tune(1)'), scope)
    assert scope['learn'].predict(scope['dls'].valid.items[0])[0] in scope['dls'].vocab
