"Evaluation: the same path as validation, intervals over recordings, calibration, targets of every kind, labels that do not fit, folds that go on."

import re
from functools import partial

import matplotlib, numpy as np, pandas as pd, pytest, torch
from fastai.callback.core import Callback
from fastai.data.all import RegressionBlock
from fastai.layers import SimpleCNN
from fastai.learner import Learner, load_learner
from fastai.vision.augment import aug_transforms
from sklearn.metrics import accuracy_score, average_precision_score, top_k_accuracy_score
from torch import nn

from fastai_seq.judge import looks as room
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.walkthrough import get_action_dataloaders
from fastai_seq.data.split import KFoldSplitter
from fastai_seq.data.block import TensorVideoTfm
from fastai_seq.data.find import get_instances
from fastai_seq.data.datasets import motion_clips
from fastai_seq.judge.categories import CategoryEvaluation
from fastai_seq.judge.evaluate import evaluate_clips
from fastai_seq.judge.folds import evaluate_folds
from fastai_seq.judge.multilabel import MultiCategoryEvaluation
from fastai_seq.judge.regression import RegressionEvaluation
from fastai_seq.video.extract import extract_dataset
from fastai_seq.train.learner import seq_learner
from fastai_seq.walkthrough import SimpleModel, get_action_dataloaders
from fastai_seq.video.sampling import EveryFrame, RandomClip, SegmentFrames
from fastai_seq.video.clip import VideoRange
from fastai_seq.video.files import VideoError
from fastai_seq.video.read import read_frames

matplotlib.use('agg')
tiny = partial(SimpleCNN, [3, 4, 8])
load = partial(ImageSeqDataLoaders.from_folder, seq_len=3, size=32, bs=4, seed=0, num_workers=0)
ev = partial(evaluate_clips, n_boot=20)

def learner(dls, **kwargs):
    torch.manual_seed(0)
    learn = seq_learner(dls, tiny, pretrained=False, **kwargs)
    learn.remove_cb(learn.progress) if hasattr(learn, 'progress') else None
    return learn

@pytest.fixture(scope='module')
def learn(clips): return learner(load(clips, sampler=RandomClip(3, stride=2)))

def category(p, y, groups=None, **kwargs):
    n = len(p)
    return CategoryEvaluation(
        list(range(n)), y, p, groups or list(range(n)), list(map(str, range(p.shape[1]))), **kwargs
    )

# --- the same path as validation ---

@pytest.mark.parametrize('kind', ['random', 'every', 'folders', 'wide', 'squish', 'normal', 'workers', 'augmented', 'tuple'])
@pytest.mark.slow
def test_one_look_is_validation_to_the_bit(clips, tmp_path, kind):
    path, kwargs = clips, dict(
        random=dict(sampler=RandomClip(3, stride=2)),
        every=dict(sampler=EveryFrame(5)),
        wide=dict(size=(32, 20)),
        squish=dict(size=(16, 40), method='squish'),
        workers=dict(num_workers=2, sampler=SegmentFrames),
        augmented=dict(batch_tfms=aug_transforms(size=24)),
    ).get(kind, {})
    if kind == 'folders': extract_dataset(clips, path := tmp_path/'frames', workers=0)
    if kind == 'tuple':
        dls = get_action_dataloaders(get_instances(clips), bs=4, image_size=32, seq_len=3, num_workers=0)
        l = Learner(dls, SimpleModel(tiny, n_out=2, pretrained=False))
        l.remove_cb(l.progress)
    else:
        l = learner(load(path, **kwargs), normalize=kind == 'normal')
    p, y = l.get_preds()
    e = ev(l, n_clips=1)
    assert (
        np.array_equal(e.preds, p.numpy())
        and np.array_equal(e.targets, y.numpy())
        and e.items == list(l.dls.valid.items)
    )
    assert len(np.unique(e.preds)) > 2     # they differ at all

@pytest.mark.parametrize('n_clips,n_crops,bs', [(2, 1, 4), (3, 1, 2), (10, 1, 4), (2, 3, 4), (1, 3, 64), (5, 1, 1)])
def test_looks_are_averaged_a_video_whatever_the_batch(learn, n_clips, n_crops, bs):
    "The same as reading each look by hand"
    e = ev(learn, n_clips=n_clips, n_crops=n_crops, bs=bs)
    dl, tfm = learn.dls.valid, learn.dls.valid.dataset.tls[0].tfms.fs[-1]
    for path, p in list(zip(e.items, e.preds))[::3]:
        looks = [room.read_looks(tfm, tfm.sampler, path, n_clips, n_crops, [k])[0] for k in range(n_clips*n_crops)]
        assert [l.source[1] for l in looks[::n_crops]] == tfm.sampler.clips(12, n_clips)
        x = dl.after_batch((torch.stack(looks),))[0]
        with torch.no_grad(): by_hand = learn.model.eval()(x).softmax(1).mean(0)
        assert np.allclose(by_hand.numpy(), p, atol=1e-5)

def test_a_video_is_opened_once_if_its_looks_make_a_batch(learn, monkeypatch):
    read = []
    monkeypatch.setattr(
        room, 'read_clip', lambda path, *a, f=room.read_clip, **k: (read.append(path), f(path, *a, **k))[1]
    )
    for n_clips, times in ((4, 1), (1, 1), (10, 3)):
        read.clear()
        e = ev(learn, n_clips=n_clips)
        assert {p: read.count(p) for p in e.items} == dict.fromkeys(e.items, times)

def test_no_batch_is_larger_than_asked(learn):
    sizes = []
    class Sizes(Callback):
        def before_batch(self): sizes.append(len(self.x))
    learn.add_cb(cb := Sizes())
    try: ev(learn, n_clips=10, n_crops=3)
    finally: learn.remove_cb(cb)
    assert max(sizes) <= 4 and sum(sizes) == 30*len(learn.dls.valid.items)

@pytest.mark.parametrize('size,axis', [((64, 96), 2), ((96, 64), 1)])
def test_crops_lie_along_the_longer_side(tmp_path, size, axis):
    "Left, centre, right of wide frames; top, centre, bottom of tall ones; together they cover the frame"
    clip = get_instances(motion_clips(tmp_path, n_classes=2, n_groups=1, clips_per_group=1, size=size, n_frames=4))[0]
    for want in (32, (32, 32), (48, 32), (32, 40)):
        tfm = TensorVideoTfm(2, want)
        a, b, c = room.read_looks(tfm, tfm.sampler, clip, 1, 3, range(3))
        assert a.shape == b.shape == c.shape == (2, 3, *tfm.size) and torch.equal(b, tfm(clip))
        if want != 32: continue
        whole = torch.from_numpy(read_frames(clip, [0, 3], 32)).permute(0, 3, 1, 2)
        n = whole.shape[axis + 1]
        assert (
            n == 48
            and torch.equal(a, whole.narrow(axis + 1, 0, 32))
            and torch.equal(c, whole.narrow(axis + 1, n - 32, 32))
        )

def test_crops_of_folders_of_images(clips, tmp_path):
    "The centre of three is what the loader gives, but for a part of a pixel"
    extract_dataset(
        motion_clips(tmp_path / 'v', n_classes=2, n_groups=1, clips_per_group=1, size=(64, 96), n_frames=4),
        tmp_path / 'f',
        workers=0,
    )
    tfm, clip = TensorVideoTfm(2, 32), get_instances(tmp_path/'f')[0]
    a, b, c = (o.float() for o in room.read_looks(tfm, tfm.sampler, clip, 1, 3, range(3)))
    apart = lambda x: (x - tfm(clip).float()).abs().mean()
    assert apart(b) < 3 < min(apart(a), apart(c))

def test_training_set_is_looked_at_as_in_validation(learn):
    "Without the random draws, the shuffling and the dropped batch of training"
    a, b = (ev(learn, dl=learn.dls.train, n_clips=1) for _ in range(2))
    assert (
        np.array_equal(a.preds, b.preds)
        and len(a.items) == len(learn.dls.train.items)
        and 'of which' in a.protocol['trained on']
    )
    assert re.search(r'(\d+) groups, \1 of which', a.protocol['trained on'])
    assert ', 0 of which' in ev(learn, n_clips=1).protocol['trained on']

def test_a_sampler_that_sees_a_clip_whole_looks_once(clips):
    l = learner(load(clips, sampler=EveryFrame(5)))
    e = ev(l, n_clips=10)
    assert '1 clips (10 asked for' in str(e) and np.array_equal(e.preds, l.get_preds()[0].numpy())
    other = ev(l, n_clips=4, sampler=SegmentFrames(3))
    assert (
        '4 clips x 1 crops' in str(other)
        and 'SegmentFrames' in str(other)
        and not np.array_equal(other.preds, e.preds)
    )

def test_ways_to_give_videos(learn, clips, tmp_path):
    reference, items = ev(learn, n_clips=2), list(learn.dls.valid.items)
    by_items = ev(learn, items=list(map(str, items)), n_clips=2)
    by_labels = ev(learn, items=items[::-1], labels=[i.parent.name for i in items[::-1]], n_clips=2)
    by_dl = ev(learn, dl=learn.dls.test_dl(items, with_labels=True), n_clips=2)
    for e in (by_items, by_dl): assert np.array_equal(e.preds, reference.preds) and e.metrics.equals(reference.metrics)
    assert np.allclose(by_labels.preds[::-1], reference.preds, atol=1e-6)
    learn.export(tmp_path/'l.pkl')
    again = load_learner(tmp_path/'l.pkl')
    assert np.array_equal(ev(again, items=items, n_clips=2).preds, reference.preds) and np.array_equal(
        ev(again, list(items), n_clips=2).preds, reference.preds
    )
    with pytest.raises(ValueError, match='pass a loader'): ev(again, list(items), items=items)
    with pytest.raises(ValueError, match='pass clips'): ev(again)

def test_parts_of_a_video_count_as_one_recording(learn):
    f = learn.dls.valid.items[0]
    e = ev(
        learn,
        items=[VideoRange(f, 0, 0.2), VideoRange(f, 0.2)],
        labels=['MoveLeft'] * 2,
        group_func=lambda o: None,
        n_clips=1,
    )
    assert len(set(e.groups)) == 1 and e.metrics.low.isna().all() and 'one recording group only' in str(e)

# --- what does not fit ---

def test_labels_that_do_not_fit_are_named(learn, clips, tmp_path):
    items = list(learn.dls.valid.items)
    with pytest.raises(ValueError, match=r"3 of 6 videos have labels.*'Jump', 'Sit'.*MoveLeft', 'MoveRight'"):
        ev(learn, items=items[:6], labels=['Jump', 'Sit', 'Jump', 'MoveLeft', 'MoveLeft', 'MoveRight'])
    other = load(motion_clips(tmp_path/'other', n_classes=4, n_groups=4, clips_per_group=1, n_frames=6), bs=2)
    with pytest.raises(ValueError, match="not trained on: 'MoveDown', 'MoveUp'"): ev(learn, dl=other.valid)
    with pytest.raises(ValueError, match='no labels.*get_preds.*predict_video'): ev(learn, dl=learn.dls.test_dl(items))
    for missing in (None, float('nan'), pd.NA):
        with pytest.raises(ValueError, match='has no label'): ev(learn, items=items[:2], labels=['MoveLeft', missing])
    with pytest.raises(ValueError, match='2 items and 1 labels'): ev(learn, items=items[:2], labels=['MoveLeft'])
    with pytest.raises(ValueError, match='pass a loader'): ev(learn, labels=['MoveLeft'])
    with pytest.raises(ValueError, match='no videos'): ev(learn, items=[])
    listed = learner(
        ImageSeqDataLoaders.from_lists(
            clips,
            files := get_instances(clips),
            [f.parent.name for f in files],
            seq_len=2,
            size=16,
            bs=4,
            seed=0,
            num_workers=0,
        )
    )
    with pytest.raises(ValueError, match='has no label'): ev(listed, items=[tmp_path/'unknown.avi'])

def test_a_part_of_the_classes_keeps_its_numbers(learn, clips):
    "A folder that lacks the first class: labels are compared by name, not by number"
    items = [f for f in learn.dls.valid.items if f.parent.name == 'MoveRight']
    e = ev(learn, items=items, n_clips=1)
    assert set(e.targets) == {1} and e.report.support.tolist() == [0, len(items)]
    assert e.accuracy == (e.preds.argmax(1) == 1).mean()

def test_settings_that_do_not_fit(learn, clips):
    for kwargs in (dict(n_clips=0), dict(n_crops=2)):
        with pytest.raises(ValueError, match='expected clips from 1 on, and 1 crop or 3'): ev(learn, **kwargs)
    with pytest.raises(ValueError, match="method='squish'"): ev(learner(load(clips, method='squish')), n_crops=3)
    dls = get_action_dataloaders(get_instances(clips), bs=4, image_size=32, seq_len=3, num_workers=0)
    l = Learner(dls, SimpleModel(tiny, n_out=2, pretrained=False))
    with pytest.raises(ValueError, match='ImageTuple'): ev(l, n_crops=3)
    with pytest.raises(ValueError, match='2 classes'): ev(learner(load(clips), n_out=5))

def test_outputs_that_are_no_probabilities(clips):
    l = learner(load(clips), loss_func=nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match='act='): ev(l)
    assert np.allclose(ev(l, act=lambda o: o.softmax(1)).preds.sum(1), 1)
    with torch.no_grad(): [p.fill_(float('nan')) for p in l.model.parameters()]
    with pytest.raises(ValueError, match='not finite'): ev(l, act=lambda o: o.softmax(1))

def test_a_video_that_cannot_be_read_is_told_and_not_replaced(learn, tmp_path):
    (bad := tmp_path/'MoveLeft'/'v_MoveLeft_g01_c01.avi').parent.mkdir()
    bad.write_bytes(b'nothing')
    l = learner(load(learn.dls.valid.items[0].parent.parent, on_error='replace'))
    with pytest.raises(VideoError, match='v_MoveLeft_g01_c01'): ev(l, items=[learn.dls.valid.items[0], bad])

# --- the numbers ---

def dirichlet(n, c, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(c, .4), n)
    return p, np.array([rng.choice(c, p=o) for o in p])

def test_metrics_are_scikit_learns():
    p, y = dirichlet(300, 12)
    e = category(p, y, n_boot=10)
    assert e.accuracy == accuracy_score(y, p.argmax(1)) == e.metrics.value['accuracy']
    assert (
        np.isclose(e.top_k_accuracy, top_k_accuracy_score(y, p, k=5, labels=range(12)))
        and e.metrics.value['top-5'] == e.top_k_accuracy
    )
    assert np.isclose(
        category(p, y, top_k=3, n_boot=10).metrics.value['top-3'],
        top_k_accuracy_score(y, p, k=3, labels=range(12)),
    )
    assert (
        e.confusion.to_numpy().sum() == 300
        and np.isclose(np.trace(e.confusion.to_numpy()), 300 * e.accuracy)
        and np.isclose(e.metrics.value['mean recall'], e.report.recall.mean())
    )
    assert (e.to_frame()['rank'] <= 5).mean() == e.top_k_accuracy and category(*dirichlet(20, 5)).top_k_accuracy is None
    same = np.full((12, 12), 1/12)      # nobody knows: the first class, and no more than 5 of 12 among five best
    assert category(same, np.arange(12)).accuracy == 1/12 and category(same, np.arange(12)).top_k_accuracy == 5/12

def test_calibration():
    p, y = dirichlet(20000, 6)
    sharp, flat = (p**a/(p**a).sum(1, keepdims=True) for a in (4, .3))
    assert category(p, y).ece < .015 and category(sharp, y).ece > .2 and category(flat, y).ece > .2
    over, under = (category(o, y).calibration() for o in (sharp, flat))
    assert (over.accuracy < over.confidence).all() and (under.accuracy > under.confidence).mean() > .8
    assert over.videos.sum() == 20000
    e = category(
        np.array([[0.95, 0.05]] * 4 + [[0.55, 0.45]] * 4), [0, 0, 0, 1, 0, 1, 1, 1]
    )  # by hand: half of it .95 said, .75 came; half .55 said, .25 came
    assert np.isclose(e.ece, .5*.2 + .5*.3)

@pytest.mark.slow
def test_intervals_count_recordings():
    "Recordings that stand or fall together: by clips far too narrow, by groups about right; independent clips: the same"
    def coverage(unit, together, n=120):
        hits = 0
        for seed in range(n):
            rng = np.random.default_rng(seed)
            right = np.repeat(rng.random(30) < .7, 8) if together else rng.random(240) < .7
            m = category(
                np.where(right[:, None], [0.9, 0.1], [0.1, 0.9]),
                np.zeros(240, int),
                [i // unit for i in range(240)],
                n_boot=200,
                seed=seed,
            )
            draws = np.array([np.average(right, weights=w) for w in m.draws()])
            hits += np.quantile(draws, .025) <= .7 <= np.quantile(draws, .975)
        return hits/n
    assert coverage(1, True) < .7 and coverage(8, True) > .85 and coverage(8, False) > .85 and coverage(1, False) > .85

def test_intervals_are_repeatable_and_leave_the_random_state(learn):
    np.random.seed(1)
    torch.manual_seed(1)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(1)
    torch.manual_seed(1)
    a, b = category(*dirichlet(40, 3), n_boot=50).metrics, category(*dirichlet(40, 3), n_boot=50).metrics
    assert a.equals(b) and not a.equals(category(*dirichlet(40, 3), n_boot=50, seed=1).metrics)
    assert (np.random.rand(), torch.rand(1)) == expected

def test_draws_are_of_whole_groups():
    groups = [('g', i//3) for i in range(30)]                  # groups may be anything
    for w in category(*dirichlet(30, 3), groups, n_boot=20).draws():
        assert w.sum() == 30 and (w.reshape(10, 3) == w[::3, None]).all()
    with pytest.raises(ValueError, match='group None'): category(*dirichlet(3, 3), [None, 'a', 'b'])

def test_right_answers_only_are_no_certainty():
    e = category(np.array([[1., 0]]*40), np.zeros(40, int), n_boot=20)
    assert '8%' in str(e) and 'rule of three' in str(e)

def test_a_big_set_is_quick():
    "Classes and videos as in a fold of UCF101: the bootstrap is not a matter of minutes"
    p, y = dirichlet(3783, 101)
    e = category(p, y, [i//5 for i in range(3783)], n_boot=50)
    assert e.metrics.low['top-5'] < e.top_k_accuracy < e.metrics.high['top-5'] and len(e.plot()) == 3

# --- other targets ---

@pytest.mark.slow
def test_several_labels_and_numbers_through_a_learner(clips, tmp_path):
    files = get_instances(clips)
    both = [[f.parent.name, 'early' if 'g01' in f.name else 'late'] for f in files]
    for labels, cls in (
        (both, MultiCategoryEvaluation),
        ([float(i) for i in range(24)], RegressionEvaluation),
        ([[i, 2.0 * i] for i in map(float, range(24))], RegressionEvaluation),
    ):
        kwargs = (
            {}
            if cls is MultiCategoryEvaluation or np.ndim(labels) == 1
            else dict(y_block=RegressionBlock(n_out=2))
        )
        dls = ImageSeqDataLoaders.from_lists(
            clips,
            files,
            labels,
            seq_len=2,
            size=16,
            bs=4,
            seed=0,
            num_workers=0,
            sampler=SegmentFrames,
            **kwargs,
        )
        l = learner(dls, n_out=dls.c)
        e, (p, y) = ev(l, n_clips=1), l.get_preds()
        assert (
            isinstance(e, cls)
            and np.array_equal(e.preds, p.numpy().reshape(len(p), -1))
            and np.allclose(e.targets, y.numpy().reshape(e.targets.shape))
        )
        assert ev(l, n_clips=3).preds.shape == e.preds.shape
        assert (
            e.to_html(tmp_path / 'page.html').stat().st_size > 1000
            and len(e.to_frame()) == len(e.worst()) == len(e.items)
            and 'seq_len=2' in str(e)
        )
        if cls is MultiCategoryEvaluation:
            with pytest.raises(ValueError, match='list of them'): ev(l, items=files[:1], labels=['MoveLeft'])
            with pytest.raises(ValueError, match="'noon'"): ev(l, items=files[:1], labels=[['MoveLeft', 'noon']])

def test_several_labels_by_hand():
    t, p = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1]]), np.array([[.9, .1, .2], [.8, .2, .7], [.1, .6, .9]])
    e = MultiCategoryEvaluation(list('xyz'), t, p, list('xyz'), list('abc'), n_boot=20)
    assert e.metrics.value['mAP'] == 1 and np.isnan(e.report.AP['b']) and e.report.support.tolist() == [2, 0, 2]
    assert e.to_frame().prediction.tolist() == ['a', 'a;c', 'b;c'] and e.to_frame().wrong.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match='torch.sigmoid'):
        MultiCategoryEvaluation(['x'], [[1, 0]], [[3.0, -1]], ['x'], list('ab'))

def test_average_precision_is_scikit_learns():
    "With ties and weights too"
    rng = np.random.default_rng(0)
    t, p = (rng.random((60, 5)) < .3).astype(int), rng.integers(0, 10, (60, 5))/10
    e = MultiCategoryEvaluation(list(range(60)), t, p, list(range(60)), list('abcde'), n_boot=5)
    f = e.scores()['mAP']
    for w in (np.ones(60), *e.draws()): assert np.isclose(f(w), average_precision_score(t, p, sample_weight=w))
    assert np.isclose(e.metrics.value['mAP'], e.report.AP.mean())

def test_numbers_by_hand():
    e = RegressionEvaluation(list('xyz'), [1., 2, 3], [1., 2, 5], list('xyz'), n_boot=20)
    assert (
        np.isclose(e.metrics.value['MAE'], 2 / 3)
        and np.isclose(e.metrics.value['R2'], 1 - 4 / 2)
        and e.worst().path.iloc[0] == 'z'
    )
    with pytest.raises(ValueError, match='gives 2 numbers'): RegressionEvaluation(['x'], [1.], [[1., 2]], ['x'])

def test_kinds_without_metrics_are_refused(clips):
    dls = load(clips)
    dls.valid.dataset.tls[1].tfms.fs.pop()                      # labels stay words
    with pytest.raises(ValueError, match='neither classes nor numbers'):
        ev(learner(dls, n_out=2, loss_func=nn.CrossEntropyLoss()))

# --- the page ---

def test_page_is_one_file_and_escapes(tmp_path):
    p, y = dirichlet(30, 3)
    e = CategoryEvaluation(
        [f'<b>{i}.avi' for i in range(30)],
        y,
        p,
        list(range(30)),
        ['<i>a', 'b & c', 'd'],
        {'videos': '<u>'},
        n_boot=10,
    )
    text = e.to_html(tmp_path/'page.html', title='<s>').read_text(encoding='utf-8')
    for tag in ('<b>0', '<i>a', '<u>', '<s>', 'http:', 'https:', '<script'):
        assert tag not in text.replace('<p><b>', '')
    assert (
        '&lt;b&gt;29.avi' in text
        and 'b &amp; c' in text
        and text.count('data:image/png') == 1
        and list(tmp_path.iterdir()) == [tmp_path / 'page.html']
    )

# --- folds ---

@pytest.mark.slow
def test_folds_go_on(clips, tmp_path):
    made, fail = [], {1}
    def train(splitter):
        made.append(splitter)
        if len(made) - 1 in fail: raise KeyboardInterrupt
        kept = tmp_path/f'r/fold_{len(made)}/model.pkl'           # beside the results, where others look for it
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text('model')
        return learner(
            ImageSeqDataLoaders.from_folder(clips, seq_len=2, size=16, bs=4, splitter=splitter, num_workers=0)
        )
    folds = partial(
        evaluate_folds,
        train,
        tmp_path / 'r',
        folds=range(3),
        splitter=partial(KFoldSplitter, 3),
        n_clips=1,
        n_boot=20,
    )
    with pytest.raises(KeyboardInterrupt): folds()
    assert [p.parent.name for p in (tmp_path/'r').glob('*/result.json')] == ['fold_0']
    df = folds()
    assert len(made) == 4 and folds().equals(df) and len(made) == 4
    assert (
        df.index.tolist() == [0, 1, 2, 'mean']
        and df.accuracy['mean'] == df.accuracy[:3].mean()
        and df.videos[:3].sum() == 24
    )
    assert {p.name for p in (tmp_path / 'r/fold_2').iterdir()} == {
        'result.json',
        'videos.csv',
        'page.html',
    } and len(list((tmp_path / 'r').glob('*/model.pkl'))) == 3
    assert pd.read_csv(tmp_path/'r/fold_2/videos.csv').correct.mean() == df.accuracy[2]
    with pytest.raises(ValueError, match="n_clips.*'1'.*'5'.*another folder"): folds(n_clips=5)

@pytest.mark.slow
def test_a_splitter_that_is_not_passed_on_is_noticed(clips, tmp_path):
    with pytest.raises(ValueError, match='pass its splitter on'):
        evaluate_folds(lambda splitter: learner(load(clips)), tmp_path, splitter=partial(KFoldSplitter, 3), n_boot=10)

@pytest.mark.slow
def test_official_folds_of_ucf101(tmp_path):
    "Names as UCF101's: each fold holds out its own groups"
    path = motion_clips(tmp_path/'ucf', n_classes=2, n_groups=25, clips_per_group=1, n_frames=2, size=(16, 16))
    train = lambda splitter: learner(
        ImageSeqDataLoaders.from_folder(path, seq_len=1, size=16, bs=4, splitter=splitter, num_workers=0)
    )
    df = evaluate_folds(train, tmp_path/'r', n_boot=10)
    assert df.videos[:3].tolist() == [14, 14, 14] and df.groups[:3].tolist() == [14, 14, 14]

@pytest.mark.slow
def test_folds_of_another_training_are_not_taken_for_these(clips, tmp_path):
    from fastai_seq.judge.folds import evaluate_folds
    from fastai_seq.data.split import KFoldSplitter
    def train(splitter):
        return seq_learner(
            ImageSeqDataLoaders.from_folder(
                clips, splitter=splitter, seq_len=2, size=16, bs=4, num_workers=0
            ),
            partial(SimpleCNN, [3, 4]),
            pretrained=False,
        )

    folds = partial(evaluate_folds, train, tmp_path/'folds', folds=(0,), splitter=partial(KFoldSplitter, 2), n_clips=1)
    folds(settings=dict(epochs=1))
    with pytest.raises(ValueError, match="'epochs': '1'.*'epochs': '2'"): folds(settings=dict(epochs=2))
