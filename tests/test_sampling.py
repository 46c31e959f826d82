"Samplers over all clip lengths 1 to 300."
import pytest

from fastai_seq.sampling import FirstFrames, UniformFrames

@pytest.mark.parametrize('cls', [FirstFrames, UniformFrames])
@pytest.mark.parametrize('short', ['repeat_last', 'wrap'])
def test_every_length(cls, short):
    for n in range(1, 301):
        for seq_len in (1, 2, 3, 5, 8, 16, 20, 32, 64):
            idxs = cls(seq_len, short=short)(n)
            assert len(idxs) == seq_len and 0 <= min(idxs) and max(idxs) < n
            if n >= seq_len: assert all(a < b for a, b in zip(idxs, idxs[1:]))

def test_uniform_is_even():
    for n in range(2, 301):
        for seq_len in range(2, min(n, 33)):
            idxs = UniformFrames(seq_len)(n)
            steps = [b-a for a, b in zip(idxs, idxs[1:])]
            assert idxs[0] == 0 and idxs[-1] == n-1 and max(steps) - min(steps) <= 1
            mirrored = [n-1-i for i in reversed(idxs)]
            assert all(abs(a-b) <= 1 for a, b in zip(idxs, mirrored))
