"Reading videos: which frame, what colours, which way up, and what is said of a broken file. Real files where they are."
import json, random, shutil, subprocess, sys
from pathlib import Path

import av, numpy as np, pytest
from PIL import Image

from conftest import real, shared
from fastai_seq.video import seek
from fastai_seq.video.extract import avi2frames
from fastai_seq.video.sampling import FirstFrames, UniformFrames
from fastai_seq.video.decode import extract_frames
from fastai_seq.video.files import VideoError, get_videos, write_video
from fastai_seq.video.read import n_frames, read_frames, video_info

odd = [
    'animated.gif',
    'bt601_full_range.mp4',
    'bt601_limited_range.mp4',
    'discard_first_keyframe.mp4',
    'h265_10bits.mp4',
    'nasa_13013_rotated.mp4',
    'test_non_zero_start.mp4',
    'testsrc2_mpeg4.avi',
    'testsrc2_odd_height_and_width_mpeg2.mp4',
    'testsrc2_vp8.webm',
]
counts = dict(zip(odd, (4, 60, 60, 25, 30, 17, 12, 30, 10, 30)))

def all_frames(path): return np.stack([np.asarray(f) for f in extract_frames(path)])
def ffmpeg_rgb(path, *args):
    "Frames as FFmpeg's own command converts them"
    if not shutil.which('ffmpeg'): pytest.skip('the ffmpeg command is not installed')
    w, h = all_frames(path)[0].shape[1::-1]
    out = subprocess.run(
        [
            'ffmpeg',
            '-loglevel',
            'error',
            *args,
            '-i',
            path,
            '-vsync',
            'passthrough',
            '-pix_fmt',
            'rgb24',
            '-f',
            'rawvideo',
            '-',
        ],
        capture_output=True,
        check=True,
    ).stdout
    return np.frombuffer(out, np.uint8).reshape(-1, h, w, 3)

def long_video(path, n, gop, codec='libx264', **options):
    "Noise that drifts, with a key frame each `gop` frames; every frame differs from every other"
    rng = np.random.default_rng(0)
    world = np.kron(rng.integers(0, 255, (12, 40, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), 'w') as out:
        s = out.add_stream(
            codec, rate=25, options={'g': str(gop), 'threads': '1', **options}
        )  # one thread: the same bytes everywhere
        s.width, s.height, s.pix_fmt = 96, 64, 'yuv420p'
        for i in range(n):
            out.mux(
                s.encode(
                    av.VideoFrame.from_ndarray(
                        np.ascontiguousarray(np.roll(world, -i, 1)[16:80, :96]), format='rgb24'
                    )
                )
            )
        out.mux(s.encode())
    return path

@pytest.fixture(scope='module')
def long_videos(tmp_path_factory):
    d = tmp_path_factory.mktemp('long')
    return [
        long_video(d / 'h264.mp4', 400, 50, bf='3'),
        long_video(d / 'open.mkv', 400, 40, bf='3', **{'x264-params': 'open-gop=1'}),
        long_video(d / 'mpeg4.avi', 400, 30, 'mpeg4'),
        long_video(d / 'bframes.avi', 400, 30, 'mpeg4', bf='2'),
        long_video(d / 'mpeg2.ts', 400, 30, 'mpeg2video', bf='2'),
        long_video(d / 'vp9.webm', 300, 60, 'libvpx-vp9', deadline='realtime'),
    ]

@pytest.mark.slow
def test_jumping_gives_the_frame_that_decoding_gives(long_videos, monkeypatch):
    rng, jumps = random.Random(0), []
    jump = seek._jump
    monkeypatch.setattr(
        seek,
        '_jump',
        lambda v, idxs, *line: (o for o in jump(v, idxs, *line) if jumps.append(o[0]) is None),
    )
    for path in long_videos:
        frames = all_frames(path)
        assert len(frames) == n_frames(path) > 250
        jumps.clear()
        for i in [len(frames)-1, *(rng.randrange(120, len(frames)) for _ in range(25))]:
            assert np.array_equal(read_frames(path, [i])[0], frames[i]), (path.name, i)
        some = sorted(rng.sample(range(len(frames)), 4)) + [0]
        assert np.array_equal(read_frames(path, some), frames[some])
        if path.suffix in ('.mp4', '.webm'): assert len(jumps) > 20, f'{path.name}: no jumps'
        seek._counted.clear()
        jumps.clear()
        for i in (len(frames) - 1, 200):
            assert np.array_equal(read_frames(path, [i])[0], frames[i]), (path.name, i)  # not counted before
        if path.suffix in ('.mp4', '.webm'): assert len(jumps) == 2

@pytest.mark.slow
def test_every_frame_of_real_videos_is_the_frame_of_that_number(monkeypatch):
    monkeypatch.setattr(seek, '_worth', -2)     # jump wherever the stamps allow it
    for path in [*get_videos(real('clips')), *(real('odd', o) for o in odd)]:
        frames = all_frames(path)
        for i in range(0, len(frames), 1 if len(frames) < 170 else 3):
            assert np.array_equal(read_frames(path, [i])[0], frames[i]), (path.name, i)

def test_colours_are_those_of_ffmpeg():
    for path in [*get_videos(real('clips')), *(real('odd', o) for o in odd)]:
        ours, theirs = all_frames(path).astype(int), ffmpeg_rgb(path)
        assert ours.shape == theirs.shape, path.name
        limit = {'testsrc2_odd_height_and_width_mpeg2.mp4': 4, 'h265_10bits.mp4': 3}.get(
            path.name, 0.1
        )  # interpolation of colour at hard edges
        assert np.abs(ours - theirs).mean() < limit, path.name

def test_full_and_limited_range_look_the_same(tmp_path):
    "One picture, stored in either range: as a video, and as the JPEGs made of it"
    yy, xx = np.mgrid[:96, :128]
    picture = np.stack([xx*2, yy*2, 255-xx], -1).clip(0, 255).astype(np.uint8)
    for fmt, brightness in (('yuv420p', 'MPEG'), ('yuvj420p', 'JPEG')):
        path = tmp_path/f'A/{fmt}.mp4'
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), 'w') as out:
            stream = out.add_stream('libx264', rate=25, options={'crf': '4'})
            stream.width, stream.height, stream.pix_fmt = 128, 96, fmt
            stream.codec_context.color_range = av.video.reformatter.ColorRange[brightness]
            for _ in range(3): out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24').reformat(
                format=fmt, src_color_range='JPEG', dst_color_range=brightness)))
            out.mux(stream.encode())
        for clip in (path, avi2frames(path, tmp_path/'frames', quality=95)):
            assert np.abs(read_frames(clip, [1])[0].astype(int) - picture).mean() < 3, (fmt, clip)

def test_jpegs_of_the_odd_ranges_look_like_the_video(tmp_path):
    "These two hold the same codes under different tags; FFmpeg shows them differently, and so do we"
    for name in ('bt601_full_range.mp4', 'bt601_limited_range.mp4'):
        path = real('odd', name)
        folder = avi2frames(path, tmp_path, quality=95)
        assert np.abs(read_frames(folder, range(0, 60, 10)).astype(int) - ffmpeg_rgb(path)[::10]).mean() < 4

def test_a_rotated_video_stands_upright(tmp_path):
    path = real('odd', 'nasa_13013_rotated.mp4')
    info = video_info(path, count=True)
    assert (info.width, info.height, info.rotation, info.counted) == (270, 480, 90, 17)
    upright = ffmpeg_rgb(path)                      # the command turns by itself
    assert np.abs(all_frames(path).astype(int) - upright).mean() < 1
    assert read_frames(path, [0], size=90).shape == (1, 160, 90, 3)
    small = np.asarray(Image.fromarray(upright[3]).resize((90, 160), Image.BOX)).astype(int)
    assert np.abs(read_frames(path, [3], size=90)[0] - small).mean() < 3
    folder = avi2frames(path, tmp_path, size=90)
    assert np.abs(read_frames(folder, [3])[0].astype(int) - small).mean() < 4
    assert read_frames(path, [3], size=(64, 48)).shape == (1, 64, 48, 3)

@pytest.mark.parametrize('name', odd)
def test_odd_files(name, tmp_path):
    path = real('odd', name)
    assert (
        n_frames(path)
        == counts[name]
        == len(read_frames(path, lambda n: range(n)))
        == video_info(path, count=True).counted
    )
    folder = avi2frames(path, tmp_path, quality=95)
    assert n_frames(folder) == counts[name] and read_frames(folder, [0]).shape == read_frames(path, [0]).shape
    limit = 10 if name[:3] in ('ani', 'dis') or 'odd_height' in name else 4     # small pictures with hard edges
    assert (
        np.abs(
            read_frames(folder, [0, counts[name] - 1]).astype(int) - read_frames(path, [0, counts[name] - 1])
        ).mean()
        < limit
    )

def test_no_video_in_it():
    for name in ('sine_mono_s16.wav', 'LICENSE'):
        for f in (n_frames, video_info, lambda p: read_frames(p, [0]), lambda p: list(extract_frames(p))):
            with pytest.raises(VideoError, match=name): f(real('odd', name))

@pytest.mark.slow
def test_frames_are_counted_in_the_pass_that_reads_them(long_videos):
    "The header's count is a guess; what is read must not depend on it"
    paths = long_videos + ([*get_videos(real('clips'))] if shared.exists() else [])
    for path in paths:
        for sampler in (UniformFrames(7), FirstFrames(3)):
            seek._counted.clear()
            first = read_frames(path, sampler, size=32)
            assert np.array_equal(first, read_frames(path, sampler(n_frames(path)), size=32)), path.name

@pytest.mark.slow
def test_cut_files_are_named_and_kept_on_request(tmp_path, long_videos):
    whole = {'.avi': long_videos[2], '.mkv': long_videos[1], '.webm': long_videos[5]}
    fast = tmp_path/'fast.mp4'
    with av.open(str(long_videos[0])) as src, av.open(str(fast), 'w', options={'movflags': 'faststart'}) as out:
        stream = out.add_stream_from_template(src.streams.video[0])
        for p in src.demux(video=0):
            if p.dts is not None:
                p.stream = stream
                out.mux(p)
    whole['.mp4'] = fast
    for ext, path in whole.items():
        frames = all_frames(path)
        for share in (.8, .6, .4):
            cut = tmp_path/f'cut{ext}'
            cut.write_bytes(path.read_bytes()[:int(path.stat().st_size*share)])
            for f in (
                n_frames,
                lambda p: list(extract_frames(p)),
                lambda p: avi2frames(p, tmp_path / 'frames'),
                lambda p: read_frames(p, lambda n: [n - 1]),
            ):
                with pytest.raises(VideoError, match=f'cut{ext}'): f(cut)
            assert not list((tmp_path/'frames').glob('*/cut*'))
            n = n_frames(cut, on_error='keep')
            assert 10 < n < len(frames)
            kept = read_frames(cut, range(len(frames)), on_error='keep')
            assert len(kept) == n and np.array_equal(kept[:n-8], frames[:n-8])     # the last ones may be damaged
            assert np.array_equal(read_frames(cut, [3])[0], frames[3])              # what is there can be read

def test_trimmed_without_a_key_frame(long_videos, tmp_path):
    "An edit list whose only key frame is not shown"
    if not shutil.which('ffmpeg'): pytest.skip('the ffmpeg command is not installed')
    src = long_video(tmp_path/'one_key.mp4', 300, 400, bf='3')
    subprocess.run(
        ['ffmpeg', '-loglevel', 'quiet', '-ss', '2', '-i', src, '-c', 'copy', tmp_path / 'trim.mp4'],
        check=True,
    )
    frames = all_frames(tmp_path/'trim.mp4')
    assert 240 < len(frames) == n_frames(tmp_path/'trim.mp4') < 260
    assert np.array_equal(read_frames(tmp_path/'trim.mp4', [200, 10]), frames[[200, 10]])
    assert len(read_frames(tmp_path/'trim.mp4', UniformFrames(2))) == 2

def test_what_starts_in_the_middle_is_whole(tmp_path):
    "Captures begin between two key frames; what can be decoded is all there is"
    if not shutil.which('ffmpeg'): pytest.skip('the ffmpeg command is not installed')
    src = long_video(tmp_path/'mpeg2.ts', 120, 30, 'mpeg2video', bf='2')
    (tmp_path/'cut.ts').write_bytes(src.read_bytes()[188*40:])
    avi = long_video(tmp_path/'m.avi', 120, 30, 'mpeg4')
    subprocess.run(
        [
            'ffmpeg',
            '-loglevel',
            'quiet',
            '-ss',
            '1.5',
            '-i',
            avi,
            '-c',
            'copy',
            '-copyinkf',
            tmp_path / 'late.avi',
        ],
        check=True,
    )
    for name in ('cut.ts', 'late.avi'):
        assert 60 < n_frames(tmp_path / name) == len(list(extract_frames(tmp_path / name))) < 120

def test_lost_frames_are_not_jumped_over(tmp_path):
    "Damage in the middle: numbers are those of decoded frames, however they are read"
    src = long_video(tmp_path/'h264.mp4', 400, 50, bf='0')
    with av.open(str(src)) as c: packets = [(p.pos, p.size) for p in c.demux(video=0) if p.size]
    data = bytearray(src.read_bytes())
    for i in (20, 21): data[packets[i][0]:packets[i][0]+packets[i][1]] = bytes(packets[i][1])
    bad = tmp_path/'bad.mp4'
    bad.write_bytes(data)
    try: n = n_frames(bad)
    except VideoError: n = n_frames(bad, on_error='keep')
    kept = [np.asarray(f) for f in extract_frames(bad, on_error='keep')]
    assert len(kept) == n
    for i in (0, n//2, n-1): assert np.array_equal(read_frames(bad, [i], on_error='keep')[0], kept[i])

def test_frames_of_a_variable_rate(tmp_path):
    "fps goes by time: of 2 s, the first at 50 and the second at 10 frames a second, 5 a second each"
    path = tmp_path/'A/vfr.mp4'
    path.parent.mkdir()
    with av.open(str(path), 'w') as out:
        s = out.add_stream('libx264', rate=100, options={'bf': '0'})
        s.width, s.height, s.pix_fmt = 64, 64, 'yuv420p'
        for i, t in enumerate([*range(0, 100, 2), *range(100, 200, 10)]):
            f = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 3*i, np.uint8), format='rgb24')
            f.pts = t
            out.mux(s.encode(f))
        out.mux(s.encode())
    values = read_frames(avi2frames(path, tmp_path/'f', fps=5), lambda n: range(n)).mean((1, 2, 3))/3
    assert np.abs(values - [0, 10, 20, 30, 40, 50, 52, 54, 56, 58]).max() < 1.5

def test_truncated_anywhere(tmp_path):
    "Ten cuts of each format: a shorter clip is never passed off as whole where the format can tell"
    made = [
        long_video(tmp_path / 'a.mkv', 100, 20),
        long_video(tmp_path / 'b.webm', 60, 20, 'libvpx-vp9', deadline='realtime'),
        long_video(tmp_path / 'c.avi', 100, 20, 'mpeg4'),
        long_video(tmp_path / 'd.flv', 100, 20, 'flv'),
        long_video(tmp_path / 'e.wmv', 100, 20, 'wmv2'),
        long_video(tmp_path / 'f.ogv', 60, 20, 'libvpx'),
    ]
    if shared.exists(): made.append(real('odd', 'animated.gif'))
    for path in made:
        n, data, caught = n_frames(path), path.read_bytes(), 0
        for k in range(1, 11):
            cut = tmp_path/f'cut{k}{path.suffix}'
            cut.write_bytes(data[:len(data)*k//11])
            try:assert n_frames(cut) == n, (path.name, k)
            except VideoError as e: caught += cut.name in str(e)
        assert caught >= 7, (path.name, caught)

def test_a_broken_frame_in_a_folder_is_found(clips, tmp_path):
    from fastai_seq.data.find import examine_clips
    for f in list((clips/'MoveLeft').iterdir())[:3]: avi2frames(f, tmp_path)
    folder = next((tmp_path/'MoveLeft').iterdir())
    (folder/'5.jpg').write_bytes((folder/'5.jpg').read_bytes()[:200])
    table = examine_clips(tmp_path, workers=0)
    assert [f.name for f in table.index[table.verdict != '']] == [folder.name] and '5.jpg' in table.problem[folder]
    (tmp_path/'manifest.json').write_text('')
    assert 'damaged' in examine_clips(tmp_path, workers=0).problem[folder]

flip_job = """
import json, sys
from fastai_seq.video.extract import avi2frames
from fastai_seq.video.files import VideoError
from fastai_seq.video.read import *
out = []
for path in sys.argv[1:]:
    try:
        n = n_frames(path)
        out.append([n, len(read_frames(path, lambda n: range(0, n, 5), size=32)), len(avi2frames(path, 'flipped', force=True, size=32).ls_sorted())])
    except VideoError as e: out.append(path in str(e))
print(json.dumps(out))
"""

@pytest.mark.slow
def test_flipped_bits_give_the_right_count_or_a_named_error(tmp_path, long_videos):
    "A hundred seeded flips of one to fifty bits, in another process: if that hangs or crashes, the test fails"
    sources = ['v_ApplyEyeMakeup_g01_c01.avi', 'TrumanShow_wave_f_nm_np1_fr_med_26.avi'] if shared.exists() else []
    sources = [real('clips', s) for s in sources] + [long_videos[0], long_videos[2]]
    rng, files, truth = random.Random(0), [], []
    for i in range(100):
        src = sources[i % len(sources)]
        data = bytearray(src.read_bytes())
        for _ in range(rng.choice((1, 1, 10, 50))): data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        files.append(tmp_path/f'{i}{src.suffix}')
        files[-1].write_bytes(data)
        truth.append(n_frames(src))
    run = subprocess.run(
        [sys.executable, '-c', flip_job, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    got = json.loads(run.stdout)
    assert len(got) == 100 and sum(o is True for o in got) > 5
    wrong = [(f.name, n, o) for f, n, o in zip(files, truth, got) if o is not True and o != [n, len(range(0, n, 5)), n]]
    assert (
        len(wrong) <= 1
    ), wrong  # a decoder with threads may lose frames that it does not miss, and not each time
    for *_, o in wrong: assert o == [o[0], len(range(0, o[0], 5)), o[0]]     # even then all ways of reading agree

def test_renamed_files_are_what_they_are(clips, tmp_path):
    src = next((clips/'MoveLeft').iterdir())
    for name in ('a.mp4', 'b.gif', 'c.webm'):
        shutil.copy(src, tmp_path/name)
        assert n_frames(tmp_path/name) == 12
    (tmp_path/'frame.avi').write_bytes(b'\0'*5000)
    with pytest.raises(VideoError, match='frame.avi'): n_frames(tmp_path/'frame.avi')
