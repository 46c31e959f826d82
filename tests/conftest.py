"What the tests share: the repository's root, the real material beside it, and small clips made once."
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
shared = root.parent/'shared'

def real(*parts):
    "A path in ../shared; the test is skipped where it is absent"
    path = shared.joinpath(*parts)
    if not path.exists(): pytest.skip(f"no real material at {path}")
    return path

@pytest.fixture(scope='session')
def clips(tmp_path_factory):
    "A data set of 2 classes, 4 groups, 3 clips each, 12 frames"
    from fastai_seq.datasets import motion_clips
    return motion_clips(tmp_path_factory.mktemp('data')/'clips', n_classes=2, n_groups=4, clips_per_group=3, n_frames=12)
