"What the tests share: the repository's root, the names of the modules, the real material beside it, small clips made once, and a writer of archives."

import struct, zlib
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
shared = root.parent/'shared'
modules = sorted(
    '.'.join(p.relative_to(root / 'fastai_seq').with_suffix('').parts)
    for p in root.glob('fastai_seq/**/*.py')
    if p.stem[0] != '_'
)

def real(*parts):
    "A path in ../shared; the test is skipped where it is absent"
    path = shared.joinpath(*parts)
    if not path.exists(): pytest.skip(f"no real material at {path}")
    return path

@pytest.fixture(scope='session')
def clips(tmp_path_factory):
    "A data set of 2 classes, 4 groups, 3 clips each, 12 frames"
    from fastai_seq.data.datasets import motion_clips
    return motion_clips(
        tmp_path_factory.mktemp('data') / 'clips', n_classes=2, n_groups=4, clips_per_group=3, n_frames=12
    )

def stored_rar(path, members):
    "A RAR3 archive at `path` holding `members`, a dict of name to bytes, not compressed: no program is needed to extract it"
    def block(kind, flags, body, data=b''):
        head = struct.pack('<BHH', kind, flags, 7+len(body)) + body
        return struct.pack('<H', zlib.crc32(head) & 0xffff) + head + data
    out = b'Rar!\x1a\x07\x00' + block(0x73, 0, bytes(6))
    for name, data in members.items():
        n = name.encode()
        out += block(0x74, 0x8000, struct.pack('<IIBIIBBHI', len(data), len(data), 3, zlib.crc32(data), 0x5a210000,
                                               20, 0x30, len(n), 0o100644) + n, data)
    path.write_bytes(out + block(0x7b, 0x4000, b''))
    return path
