"A report: all of its parts, the truth about the split, of all kinds of targets, within its size, and it opens in a browser."

import re, shutil, subprocess, warnings
from functools import partial

import matplotlib, numpy as np, pytest
from fastai.data.transforms import RandomSplitter
from fastai.layers import SimpleCNN
from fastai.learner import load_learner
from fastai.metrics import accuracy
from PIL import Image

from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.find import get_instances
from fastai_seq.judge.evaluate import evaluate_clips
from fastai_seq.train.learner import seq_learner
from fastai_seq.judge.report import write_report
from fastai_seq.video.sampling import EveryFrame
from matplotlib import pyplot as plt

matplotlib.use('agg')
load = partial(ImageSeqDataLoaders.from_folder, seq_len=3, size=32, bs=4, seed=0, num_workers=0)
quick = partial(write_report, n_boot=10, n_clips=1, k=2)

def learner(dls, **kwargs):
    learn = seq_learner(dls, partial(SimpleCNN, [3, 4, 8]), pretrained=False, **kwargs)
    learn.remove_cb(learn.progress)
    return learn

@pytest.fixture(scope='module')
def learn(clips):
    learn = learner(load(clips), metrics=accuracy)
    with learn.no_logging(): learn.fit(2)
    return learn

@pytest.fixture(autouse=True)
def recorded(learn):
    "Tests that ask `learn` themselves make its recorder forget"
    had = {k: v for k,v in vars(learn.recorder).items() if k in ('values', 'losses', 'iters', 'lrs', 'metric_names')}
    yield
    vars(learn.recorder).update(had)

@pytest.mark.slow
def test_all_of_it_is_there_and_says_what_is_so(learn, tmp_path):
    figures = len(plt.get_fignums())
    page = quick(learn, tmp_path/'new'/'r.html', title='One & two')
    html, ev = page.read_text(), evaluate_clips(learn, n_clips=1, n_boot=10)
    assert re.findall('<h2>(.*?)</h2>', html) == [
        'Data and split',
        'Training',
        'Evaluation',
        'Recordings',
        'Clips',
        'Protocol',
    ]
    assert (
        '<h1>One &amp; two</h1>' in html
        and ev.headline in html
        and 'No recording group is on both sides.' in html
        and 'src="http' not in html
    )
    assert html.count('image/webp') == 4 and html.count('image/png') == 2 and len(plt.get_fignums()) == figures
    for word in (
        'valid_loss',
        'SimpleCNN',
        'MeanHead',
        'Adam',
        'parameters',
        'fastai_seq',
        'looks a video',
        'v_MoveLeft_g',
        'precision',
    ):
        assert word in html, word
    table = html[html.index('<h2>Data'):html.index('<h2>Training')]
    for side, dl in (('training', learn.dls.train), ('validation', learn.dls.valid)):
        assert re.search(rf'<th>{side}</th>\s*<td>{len(dl.items)}</td>', table), side
    assert len(re.findall(r'<td>0\.\d+</td>|<td>1\.0+</td>', html)) > 5

def test_the_learner_is_as_it_was(learn, tmp_path):
    before = (
        [m.training for m in learn.model.modules()],
        list(map(type, learn.cbs)),
        [list(v) for v in learn.recorder.values],
        len(learn.recorder.losses),
    )
    quick(learn, tmp_path/'r.html')
    assert before[2][0][0] is not None and before == (
        [m.training for m in learn.model.modules()],
        list(map(type, learn.cbs)),
        [list(v) for v in learn.recorder.values],
        len(learn.recorder.losses),
    )

def test_a_leak_is_told_and_not_warned_of(clips, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = learner(load(clips, splitter=RandomSplitter(seed=0)))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        html = quick(l, tmp_path/'r.html').read_text()
    assert (
        re.search(r'\d recording groups are on both sides, so the numbers flatter: v_Move', html)
        and 'No training is on record' in html
    )

@pytest.mark.slow
def test_names_that_tell_no_recording(clips, tmp_path):
    for i, f in enumerate(get_instances(clips)):
        (tmp_path/'c'/f.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(f, tmp_path/'c'/f.parent.name/f'{i}.avi')
    assert 'The names tell no recordings' in quick(learner(load(tmp_path/'c')), tmp_path/'r.html').read_text()
    assert (
        'Of 1 of 24 clips the recording is not known' in quick(
            learner(load(clips)),
            tmp_path / 'r.html',
            group_func=lambda f: None if str(f).endswith('MoveLeft_g01_c01.avi') else f.stem[:-4],
        ).read_text()
    )

def test_a_learner_from_a_file_and_given_clips(learn, tmp_path):
    items = list(learn.dls.valid.items)
    learn.export(tmp_path/'l.pkl')
    again = load_learner(tmp_path/'l.pkl')
    html = quick(again, tmp_path/'r.html', dl=items).read_text()
    assert len(html) == len(quick(again, tmp_path/'r.html', dl=again.dls.test_dl(items, with_labels=True)).read_text())
    assert 'is not known (a learner from a file)' in html and '<th>training</th>' not in html
    with pytest.raises(ValueError, match='pass clips'): quick(again, tmp_path/'s.html')
    assert not (tmp_path/'s.html').exists()

@pytest.mark.parametrize('kind', ['numbers', 'pairs', 'labels', 'uneven'])
@pytest.mark.slow
def test_other_targets_and_uneven_clips(clips, tmp_path, kind):
    files = get_instances(clips)
    labels = dict(
        numbers=[float(i % 7) for i in range(len(files))],
        pairs=[[float(i % 7), 1.0] for i in range(len(files))],
        labels=[['all', f.parent.name] for f in files],
    ).get(kind)
    kwargs = dict(seq_len=3, size=16, bs=4, seed=0, num_workers=0)
    l = learner(
        load(clips, sampler=EveryFrame(4), size=16)
        if kind == 'uneven'
        else ImageSeqDataLoaders.from_lists(clips, files, labels, **kwargs)
    )
    html = quick(l, tmp_path/'r.html').read_text()
    assert (
        dict(numbers='mean error', pairs='output 1', labels='wrong labels', uneven='accuracy')[kind] in html
        and html.count('image/webp') == 4
    )

@pytest.mark.slow
def test_size_is_bounded_and_no_clip_is_shown_twice(learn, tmp_path):
    small, all_ = (quick(learn, tmp_path/'r.html', k=k, max_bytes=b).read_text() for k, b in ((2, 2_000), (50, 10**6)))
    sizes = [sum(map(len, re.findall(r'data:image/webp;base64,([^"]*)', h))) for h in (small, all_)]
    assert (
        sizes[0] < 2_600
        and sizes[1] > 5_000
        and all_.count('image/webp') == len(learn.dls.valid_ds)
        and '<h3>Best' not in all_
    )
    three = quick(learn, tmp_path/'r.html', k=len(learn.dls.valid_ds) - 1).read_text()
    assert three.count('image/webp') == len(learn.dls.valid_ds)

def test_what_does_not_fit(learn, tmp_path):
    with pytest.raises(ValueError, match=r'ends in \.html'): write_report(learn, tmp_path/'r.pdf')
    with pytest.raises(ValueError, match='k=0'): write_report(learn, tmp_path/'r.html', k=0)
    with pytest.raises(TypeError, match='n_looks'): write_report(learn, tmp_path/'r.html', n_looks=3)

def test_it_opens_in_a_browser(learn, tmp_path):
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not browser: pytest.skip('no chromium')
    page = quick(learn, tmp_path/'r.html')
    subprocess.run(
        [
            browser,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            '--disable-quic',
            '--no-first-run',
            '--disable-background-networking',
            '--disable-component-update',
            '--disable-sync',
            f'--user-data-dir={tmp_path}/profile',
            f'--screenshot={tmp_path}/shot.png',
            '--window-size=1000,2500',
            f'file://{page}',
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert np.asarray(Image.open(tmp_path/'shot.png').convert('L')).std() > 20
