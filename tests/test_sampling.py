"Samplers over all clip lengths 1 to 300."
import random

import pytest

from fastai_seq.video.sampling import (
    EveryFrame,
    FirstFrames,
    LastFrames,
    PartOf,
    RandomClip,
    SegmentFrames,
    UniformFrames,
)

lengths, seq_lens = range(1, 301), (1, 2, 3, 5, 8, 16, 20, 32, 64)
made = [
    UniformFrames,
    SegmentFrames,
    FirstFrames,
    RandomClip,
    lambda n, **k: RandomClip(n, stride=3, **k),
    lambda n, **k: FirstFrames(n, stride=2, **k),
    lambda n, **k: RandomClip(n, fps=10, **k),
    lambda n, **k: FirstFrames(n, fps=60, **k),
    lambda n, **k: LastFrames(n, stride=2, **k),
    lambda n, **k: LastFrames(n, fps=10, **k),
]
names = [
    'uniform',
    'segments',
    'first',
    'dense',
    'dense3',
    'first2',
    'dense at 10/s',
    'first at 60/s',
    'last2',
    'last at 10/s',
]

@pytest.mark.parametrize('make', made, ids=names)
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('short', ['repeat_last', 'wrap'])
@pytest.mark.slow
def test_every_length(make, short, training):
    random.seed(0)
    for n in lengths:
        for seq_len in seq_lens:
            s = make(seq_len, short=short)
            idxs = (s.for_training() if training else s)(n, rate=25)
            assert len(idxs) == seq_len and 0 <= min(idxs) and max(idxs) < n
            if n >= s.need(25): assert all(a <= b if s.fps else a < b for a, b in zip(idxs, idxs[1:]))
            if not training: assert idxs == s(n, rate=25)

@pytest.mark.parametrize('make', made, ids=names)
def test_short_clips_are_an_error_on_request(make):
    for n in range(1, 100):
        s = make(16, short='error')
        if n < s.need(25):
            with pytest.raises(ValueError, match=f'the clip has {n} frames, fewer than the {s.need(25)}'): s(n, rate=25)
        else: assert len(s(n, rate=25)) == 16

def test_uniform_is_even():
    for n in range(2, 301):
        for seq_len in range(2, min(n, 33)):
            idxs = UniformFrames(seq_len)(n)
            steps = [b-a for a, b in zip(idxs, idxs[1:])]
            assert idxs[0] == 0 and idxs[-1] == n-1 and max(steps) - min(steps) <= 1
            mirrored = [n-1-i for i in reversed(idxs)]
            assert all(abs(a-b) <= 1 for a, b in zip(idxs, mirrored))

def test_a_part_alone_is_at_the_end_and_needs_no_more_than_itself():
    for whole in (RandomClip(7, 'error', stride=3), FirstFrames(7, 'error', fps=10)):
        part = PartOf(whole, 0, 4, 'both').at_end()
        for n in range(part.need(25), 100):
            idxs, first = part(n, rate=25), FirstFrames(4, stride=whole.stride, fps=whole.fps)(n, rate=25)
            assert idxs[-1] == n-1 and [i - idxs[0] for i in idxs] == first
        with pytest.raises(ValueError, match='fewer than the'): part(part.need(25) - 1, rate=25)

def test_segments_hold_their_frame():
    "Each index lies in its own segment; validation takes the middle; training reaches every frame"
    random.seed(0)
    for n in range(8, 301):
        for i, idx in enumerate(SegmentFrames(8).for_training()(n)): assert i*n//8 <= idx < (i+1)*n//8
        for i, idx in enumerate(SegmentFrames(8)(n)): assert abs(idx + .5 - (i+.5)*n/8) <= 1
    assert {i for _ in range(400) for i in SegmentFrames(5).for_training()(23)} == set(range(23))

def test_dense_clips():
    "Equal steps; every start is reached in training; validation is the middle"
    random.seed(0)
    for n in range(16, 301):
        idxs = RandomClip(4, stride=5).for_training()(n)
        assert [b-a for a, b in zip(idxs, idxs[1:])] == [5, 5, 5]
        mid = RandomClip(4, stride=5)(n)
        assert abs(mid[0] - (n-1-mid[-1])) <= 1
    assert {RandomClip(4, stride=5).for_training()(23)[0] for _ in range(400)} == set(range(23-15))

def test_one_speed_whatever_the_rate():
    "At fps, frames of videos of different rates lie at the same times"
    for rate in (12.5, 15, 24, 25, 29.97, 30, 50, 60):
        times = [i/rate for i in FirstFrames(10, fps=6)(1000, rate=rate)]
        assert all(abs(t - k/6) <= 1/rate for k, t in enumerate(times))

def test_looks_at_a_clip():
    for n in lengths:
        for k in (1, 2, 5, 10):
            for s in (RandomClip(8), RandomClip(8, stride=4), SegmentFrames(8)):
                looks = s.clips(n, k)
                assert len(looks) == k and all(len(l) == 8 and 0 <= min(l) <= max(l) < n for l in looks)
                starts = [l[0] for l in looks]
                assert starts == sorted(starts) and (k > 1 or looks == [s(n)])
                assert looks == s.for_training().clips(n, k)            # nothing random in an evaluation

def test_every_frame():
    for n in lengths:
        assert EveryFrame()(n) == list(range(n))
        assert EveryFrame(20)(n) == (list(range(n)) if n <= 20 else UniformFrames(20)(n))
