"The walk-through's steps on real clips of UCF101, HMDB51 and Kinetics, where they are."
import shutil
from pathlib import Path

import matplotlib.pyplot as plt, numpy as np, pytest
from torchvision.models import mobilenet_v2

from conftest import real
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai_seq.core import ImageTuple
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.block import ImageTupleTfm
from fastai_seq.data.find import get_instances, group_of
from fastai_seq.video.extract import extract_dataset
from fastai_seq.train.learner import seq_learner
from fastai_seq.walkthrough import SimpleModel, get_action_dataloaders, simple_splitter
from fastai_seq.video.decode import extract_frames
from fastai_seq.video.files import get_videos
from fastai_seq.video.read import n_frames, read_frames

@pytest.fixture(scope='module')
def ucf(tmp_path_factory):
    "The real clips, laid out as a data set: three classes"
    path = tmp_path_factory.mktemp('real')/'UCF-101'
    for f in get_videos(real('clips')):
        cls = 'Wave' if '_wave_' in f.name else 'Juggling' if 'Juggling' in f.name else 'Other'
        (path/cls).mkdir(parents=True, exist_ok=True)
        shutil.copy(f, path/cls)
    return path

def test_every_real_clip_reads_alike(ucf):
    for f in get_instances(ucf):
        frames = [np.asarray(img) for img in extract_frames(f)]
        assert len(frames) == n_frames(f) > 20
        idxs = [0, len(frames)//2, len(frames)-1]
        for i, frame in zip(idxs, read_frames(f, idxs)): assert np.array_equal(frame, frames[i])
        assert frames[0].std() > 5

@pytest.mark.slow
def test_walk_through_on_real_clips(ucf, tmp_path):
    assert extract_dataset(ucf, tmp_path/'frames').failed == []
    folders, videos = get_instances(tmp_path/'frames'), get_instances(ucf)
    assert [f.name for f in folders] == [v.stem for v in videos]
    a, b = ImageTupleTfm(5)(folders[0]), ImageTupleTfm(5)(videos[0])
    assert np.abs(np.array(a[4]).astype(int) - np.array(b[4])).mean() < 4
    for files in (folders, videos):
        dls = get_action_dataloaders(files, bs=2, image_size=64, seq_len=5, val_idxs=[0, 3, 6], num_workers=0)
        x, y = dls.one_batch()
        assert isinstance(x, ImageTuple) and len(x) == 5 and x[0].shape == (2, 3, 64, 64)
    learn = Learner(
        dls,
        SimpleModel(mobilenet_v2, n_out=dls.c, pretrained=real('weights', 'mobilenet_v2_imagenet.pth')),
        splitter=simple_splitter,
        metrics=accuracy,
        path=tmp_path,
    )
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1)
    learn.show_results()
    dls.show_batch()
    plt.close('all')
    assert learn.predict(videos[0])[0] in dls.vocab

@pytest.mark.slow
def test_gestures_are_split_by_recording():
    dls = ImageSeqDataLoaders.from_folder(real('gestures'), seq_len=4, size=48, seed=0, num_workers=0)
    assert len(dls.train_ds) + len(dls.valid_ds) == 240 and dls.c == 8
    train, valid = ({group_of(f) for f in d.items} for d in (dls.train, dls.valid))
    assert not train & valid and {g.split('_g')[0] for g in train} == {g.split('_g')[0] for g in valid}
    assert .1 < len(dls.valid_ds)/240 < .35
