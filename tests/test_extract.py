"Extracting a data set, disturbed in every way: killed, doubled, interrupted, short of room, spread over a cluster."
import errno, json, os, random, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest
from filelock import FileLock

from fastai_seq.video import jobs, notes as notes_room, stored
from fastai_seq.data.find import get_instances
from fastai_seq.video.cache import cache_clips
from fastai_seq.video.extract import avi2frames, extract_dataset, extract_settings, frames_bytes, write_frames
from fastai_seq.video.files import VideoError, get_videos, write_video
from fastai_seq.video.notes import append_line, extraction_note, journal_file, take_over
from fastai_seq.video.processes import in_processes, results_of
from fastai_seq.video.read import n_frames, read_frames, video_info
from fastai_seq.video.stored import store_clip

n_videos, length = 16, 60

@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    "Sixteen videos of noise, in two classes"
    path, rng = tmp_path_factory.mktemp('extract')/'videos', np.random.default_rng(0)
    world = np.kron(rng.integers(0, 255, (12, 30, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    for i in range(n_videos): write_video(path/'AB'[i % 2]/f'{i}.avi', (np.roll(world, t*(i+1), 1)[:160, :240] for t in range(length)))
    return path

@pytest.fixture(scope='module')
def undisturbed(videos, tmp_path_factory):
    frames = tmp_path_factory.mktemp('undisturbed')/'frames'
    assert len(extract_dataset(videos, frames, workers=0).done) == n_videos
    return contents(frames)

def contents(path): return {f.relative_to(path).as_posix(): f.read_bytes() for f in path.rglob('*') if f.is_file()}

code = "import sys; from fastai_seq.video.extract import extract_dataset; print(extract_dataset(sys.argv[1], sys.argv[2], workers=int(sys.argv[3])))"
def start(videos, frames, workers, **kwargs):
    return subprocess.Popen([sys.executable, '-c', code, videos, frames, str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **kwargs)      # a background job ignores it

def written(frames):
    "JPEG files so far, finished clips and unfinished ones"
    count = 0
    for pattern in ('[AB]/*/*.jpg', '.unfinished/.*/*.jpg'):
        try: count += sum(1 for _ in frames.glob(pattern))
        except FileNotFoundError: continue          # moved while we looked
    return count

def wait_for(frames, n, run):
    while written(frames) < n and run.poll() is None: time.sleep(.002)

@pytest.mark.parametrize('workers', (0, 2))
@pytest.mark.slow
def test_killed_at_twenty_moments(videos, undisturbed, tmp_path, workers):
    "What has its name is whole, each run goes on, and the last gives the same bytes as one that nobody disturbed"
    frames, rng, moments = tmp_path/'frames', random.Random(workers), 20//2
    for i in range(moments):
        run = start(videos, frames, workers)
        wait_for(frames, int(n_videos*length*(i + rng.random())/moments), run)
        os.kill(run.pid, signal.SIGKILL)            # the workers, if any, have to notice by themselves
        run.communicate()
        for f in frames.glob('[AB]/*'): assert len(os.listdir(f)) == length and (extraction_note(f)['frames'], video_info(f).fps) == (length, 25)
    finished = {f: f.stat().st_mtime_ns for f in frames.glob('[AB]/*')}
    run = start(videos, frames, workers)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert contents(frames) == undisturbed and {f: f.stat().st_mtime_ns for f in finished} == finished != {}
    assert sorted(f.name for f in get_instances(frames)) == sorted(map(str, range(n_videos)))

def test_runs_at_once(videos, undisturbed, tmp_path):
    "Three come while another works; they wait for it, and then for each other"
    frames = tmp_path/'frames'
    frames.mkdir()
    with FileLock(frames/'.lock'):
        runs = [start(videos, frames, 2, env=os.environ | {'PYTHONUNBUFFERED': '1'}) for _ in range(3)]
        for r in runs: assert any('another run is extracting' in line for line in r.stdout)
        assert not written(frames)
    outs = [r.communicate(timeout=120) for r in runs]
    assert [r.returncode for r in runs] == [0, 0, 0], outs
    assert contents(frames) == undisturbed

def test_single_extractions_at_once(videos, tmp_path):
    "avi2frames of one video in many threads: whole, whoever came first"
    from concurrent.futures import ThreadPoolExecutor
    video = get_videos(videos)[0]
    with ThreadPoolExecutor(8) as pool: got = set(pool.map(lambda i: avi2frames(video, tmp_path, force=i % 2), range(16)))
    assert len(got) == 1 and n_frames(got.pop()) == length
    assert [o.name for o in (tmp_path/'A').iterdir()] == ['0']

@pytest.mark.parametrize('workers', (0, 2))
@pytest.mark.slow
def test_interrupted_by_ctrl_c(videos, undisturbed, tmp_path, workers):
    many, frames = tmp_path/'videos', tmp_path/'frames'
    for v in get_videos(videos):
        for i in range(10):
            (many/v.parent.name).mkdir(parents=True, exist_ok=True)
            os.link(v, many/v.parent.name/f'{v.stem}{i}.avi')
    run = start(many, frames, workers)
    wait_for(frames, length*3, run)
    os.killpg(run.pid, signal.SIGINT)               # as a terminal does: to the process and its workers
    out, err = run.communicate(timeout=60)
    assert run.returncode != 0 and err.count('KeyboardInterrupt') <= 2 and 'Process' not in err, err
    with pytest.raises(ProcessLookupError): os.killpg(run.pid, 0)       # nobody is left
    assert not list(frames.glob('.unfinished')) and 2 <= len(json.loads((frames/'manifest.json').read_text())['clips']) < 10*n_videos
    extract_dataset(many, frames, workers=2)
    got = contents(frames)
    for name, data in undisturbed.items():
        cls, *clip = name.split('/')
        if clip and clip[1][0] != '.': assert got[f'{cls}/{clip[0]}7/{clip[1]}'] == data

def test_a_full_disk_leaves_nothing_that_counts(videos, tmp_path):
    "A limit on the size of files stands for the disk"
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)); "
    run = subprocess.run([sys.executable, '-c', limited + code, videos, tmp_path/'frames', '0'], capture_output=True, text=True)
    assert run.returncode == 0 and all(f'{v}: [Errno 27] File too large' in run.stdout for v in get_videos(videos)), run
    assert not list((tmp_path/'frames').rglob('*.jpg')) and not list((tmp_path/'frames').glob('.unfinished'))

def test_a_full_file_system_stops_the_run(videos, tmp_path):
    "A tmpfs that holds a few clips; needs the right to mount one"
    disk = tmp_path/'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', disk], capture_output=True).returncode: pytest.skip('cannot mount a tmpfs')
    try:
        with pytest.raises(OSError, match='choose another folder') as e: extract_dataset(videos, disk/'frames')
        assert e.value.errno == errno.ENOSPC and not list(disk.rglob('*.jpg'))
        for workers in (0, 2):
            check, jobs._check_room = jobs._check_room, lambda *args: None
            try:
                with pytest.raises(OSError) as e: extract_dataset(videos, disk/'frames', workers=workers)
            finally: jobs._check_room = check
            assert e.value.errno == errno.ENOSPC
            assert {n_frames(f) for f in get_instances(disk/'frames')} <= {length} and not list(disk.glob('frames/.unfinished'))
    finally: subprocess.run(['umount', disk], check=True)

def test_the_room_is_estimated(videos, undisturbed):
    real = sum(-(-len(b)//4096)*4096 for name, b in undisturbed.items() if name.endswith('.jpg'))
    assert .8 < frames_bytes(get_videos(videos))/real < 1.25
    assert .8 < frames_bytes(get_videos(videos), fps=5, max_frames=6)/(real/length*6) < 1.25
    assert frames_bytes([]) == 0

@pytest.mark.slow
def test_on_a_cluster(videos, undisturbed, tmp_path):
    "Two worker processes of dask.distributed, which see the same files"
    distributed = pytest.importorskip('distributed')
    (tmp_path/'videos').symlink_to(videos)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, distributed.Client(cluster) as client:
        report = extract_dataset(tmp_path/'videos', tmp_path/'frames', executor=client.get_executor())
        res = dict(results_of(client.get_executor(retries=0), _fatal, [6, 7, 8]))
    assert len(report.done) == n_videos and not report.failed
    assert contents(tmp_path/'frames') == undisturbed
    assert (res[6], res[8]) == (60, 80) and isinstance(res[7], Exception)           # the worker died of it, the others went on

def _fatal(i):
    if i == 7: os._exit(9)
    return i*10

def test_a_process_that_dies_takes_no_other_clip_with_it():
    got = dict(in_processes(_fatal, list(range(20)), 2))
    assert 'died' in str(got.pop(7)) and got == {i: i*10 for i in range(20) if i != 7}

spawned = """
import multiprocessing as mp
mp.set_start_method('spawn', force=True)
from fastai_seq.video.extract import extract_dataset
{}print(extract_dataset({!r}, {!r}, workers=2))
"""

@pytest.mark.parametrize('guarded', [True, False])
@pytest.mark.slow
def test_processes_that_are_started_anew(videos, undisturbed, tmp_path, guarded):
    "As on macOS and Windows: works, or says what to do; it must neither hang nor blame the videos"
    script = tmp_path/'script.py'
    script.write_text(spawned.format("if __name__ == '__main__': " if guarded else '', str(videos), str(tmp_path/'frames')))
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    if guarded: assert run.returncode == 0 and contents(tmp_path/'frames') == undisturbed, run.stderr
    else: assert run.returncode == 1 and "if __name__ == '__main__':" in run.stderr and 'leave it out' not in run.stdout, run

def test_what_was_kept_is_said_again(videos, tmp_path):
    (tmp_path/'v/A').mkdir(parents=True)
    data = get_videos(videos)[0].read_bytes()
    (tmp_path/'v/A/half.avi').write_bytes(data[:len(data)//2])
    assert len(extract_dataset(tmp_path/'v', tmp_path/'f', on_error='keep', workers=0).done) == 1
    report = extract_dataset(tmp_path/'v', tmp_path/'f', workers=0)
    assert len(report.skipped) == 1 and '1 of the clips there are not whole' in str(report)
    (tmp_path/'f/A/half/0.jpg').unlink()
    assert len(extract_dataset(tmp_path/'v', tmp_path/'f', on_error='keep', workers=0).done) == 1      # a frame that is gone is noticed

def test_odd_things_among_the_videos(videos, tmp_path):
    "A dangling link, a folder with a video's name, links in a circle: the others are extracted"
    src = tmp_path/'v'
    (src/'A/folder.mp4').mkdir(parents=True)
    (src/'A/good.avi').write_bytes(get_videos(videos)[0].read_bytes())
    (src/'A/dangling.avi').symlink_to(tmp_path/'nowhere')
    (src/'A/up').symlink_to(src)
    report = extract_dataset(src, tmp_path/'f', workers=0)
    assert [f.name for f in report.done] == ['good.avi'] and [f.name for f,_ in report.failed] == ['dangling.avi']
    with pytest.raises(ValueError, match='choose another folder'): extract_dataset(src, src)
    for bad in (dict(size='64'), dict(size=True), dict(max_frames=2.5), dict(fps='fast'), dict(workers=-1)):
        with pytest.raises(ValueError, match=next(iter(bad))): extract_dataset(src, tmp_path/'g', **bad)
    assert len(extract_dataset(src, tmp_path/'h', size=np.int64(32), fps=np.float32(5), workers=0).done) == 1

def test_changed_sources_and_settings_are_noticed(videos, tmp_path):
    src = tmp_path/'videos'
    for f in get_videos(videos)[:3]:
        (src/f.parent.name).mkdir(parents=True, exist_ok=True)
        (src/f.parent.name/f.name).write_bytes(f.read_bytes())
    first, frames = get_videos(src)[0], tmp_path/'frames'
    assert len(extract_dataset(src, frames, workers=0).done) == 3
    with pytest.raises(ValueError, match="'size': None.*'size': 64"): extract_dataset(src, frames, size=64, workers=0)
    write_video(first, (np.zeros((32, 32, 3), np.uint8) for _ in range(5)))
    report = extract_dataset(src, frames, workers=0)
    assert report.done == [first] and '1 of the videos had changed' in str(report)
    assert n_frames(frames/first.parent.name/first.stem) == 5
    assert len(extract_dataset(src, frames, size=64, force=True, workers=0).done) == 3
    (frames/'manifest.json').unlink()
    assert '3 folders were made by other means' in str(extract_dataset(src, frames, workers=0))
    first.unlink()
    assert len(extract_dataset(src, frames, workers=0).skipped) == 2

def test_frames_wanted(videos, tmp_path):
    report = extract_dataset(videos, tmp_path, size=32, fps=10, max_frames=7, quality=90, workers=0)
    assert {(n_frames(f), read_frames(f, [0]).shape) for f in get_instances(tmp_path)} == {(7, (1, 32, 48, 3))}
    video, folder = videos/'A/6.avi', tmp_path/'A/6'       # moves 7 pixels a frame
    every = read_frames(video, range(length), size=32).astype(int)
    nearest = [int(np.abs(every - f).mean((1, 2, 3)).argmin()) for f in read_frames(folder, range(7))]
    assert nearest == [0, 3, 5, 8, 10, 13, 15]          # the first of each tenth of a second, at 25 a second
    clip = json.loads((tmp_path/'manifest.json').read_text())['clips']['A/0']
    assert (clip['frames'], clip['fps'], clip['source']) == (7, 10, '0.avi')

@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    if not Path('/proc/self/status').exists(): pytest.skip('no /proc to read the peak of memory from')
    code = ("import sys; from fastai_seq.video.extract import avi2frames; avi2frames(sys.argv[1], sys.argv[2]); "
            "print(next(l for l in open('/proc/self/status') if 'VmHWM' in l).split()[1], 'torch' in sys.modules)")
    peaks = []
    for n in (100, 2000):
        path = write_video(tmp_path/f'A/{n}.avi', (np.full((240, 320, 3), i % 250, np.uint8) for i in range(n)))
        out = subprocess.run([sys.executable, '-c', code, path, tmp_path/'frames'], capture_output=True, text=True, check=True).stdout.split()
        peaks.append(int(out[0])/1024)
        assert out[1] == 'False'
    assert peaks[1] < 200 and peaks[1] - peaks[0] < 20, peaks

def notes(dest): return json.loads((dest/'manifest.json').read_text())['clips']

def test_folders_hold_frames_only(videos, tmp_path):
    for dest, make in ((tmp_path/'frames', extract_dataset), (tmp_path/'cache', cache_clips)):
        make(videos, dest, workers=0)
        for f in get_instances(dest): assert {os.path.splitext(n)[1] for n in os.listdir(f)} in ({'.jpg'}, {'.npy'}) and video_info(f).fps == 25
        assert len(notes(dest)) == len(get_instances(dest)) == n_videos and {f.name for f in dest.iterdir() if f.is_dir()} == {'A', 'B'}

def test_the_manifest_is_read_once(videos, tmp_path, monkeypatch):
    "And not for each clip; but again when it has changed"
    read, count = notes_room.read_notes, []
    for fps in (25, 5):
        extract_dataset(videos, tmp_path, workers=0, fps=fps, force=True)
        with monkeypatch.context() as m:
            m.setattr(notes_room, 'read_notes', lambda path: count.append(path.name) or read(path))
            for _ in range(2):
                for f in get_instances(tmp_path): assert video_info(f).fps == fps
    assert count == ['manifest.json']*2

loop = "import sys; from fastai_seq.video.extract import avi2frames; [avi2frames(v, sys.argv[1], size=32) for v in sys.argv[2:]]"

def test_avi2frames_in_several_processes(videos, tmp_path):
    "Each notes its own clips, and takes over those of the others; all are known in the end, in a copy too"
    files, frames = get_videos(videos), tmp_path/'frames'
    runs = [subprocess.Popen([sys.executable, '-c', loop, frames, *files[i:] + files[:i]]) for i in (0, 4, 8, 12)]
    assert [r.wait(120) for r in runs] == [0]*4
    for f in get_instances(frames): assert (video_info(f).fps, len(os.listdir(f)), extraction_note(f)['frames']) == (25, length, length)
    shutil.copytree(frames, tmp_path/'copy')
    for dest in (frames, tmp_path/'copy'):
        assert len(extract_dataset(videos, dest, size=32, workers=0).skipped) == n_videos == len(notes(dest))
        assert not list(dest.glob('.manifest.jsonl'))

def test_a_call_costs_the_same_however_many_clips_there_are(videos, tmp_path):
    "Bytes that a thousand clips write of notes: not a thousand manifests"
    written, settings = 0, extract_settings()
    note = extraction_note(avi2frames(videos/'A/0.avi', tmp_path))
    state = lambda: ((f := tmp_path/'manifest.json').stat().st_ino, f.stat().st_mtime_ns)
    for i in range(1000):
        (tmp_path/f'A/{i}').mkdir(exist_ok=True)
        append_line(tmp_path/journal_file, json.dumps({f'A/{i}': note}))
        before = state()
        take_over(tmp_path, settings)
        if state() != before: written += (tmp_path/'manifest.json').stat().st_size
    assert written < 25*(tmp_path/'manifest.json').stat().st_size and len(extraction_note(tmp_path/'A/999')) == len(note)

@pytest.fixture
def old(videos, tmp_path):
    "What version 0.1.0 made of two of the videos: a hidden note in each folder"
    src, frames = tmp_path/'old_videos', tmp_path/'old'
    for v in (videos/'A/0.avi', videos/'B/1.avi'):
        (src/v.parent.name).mkdir(parents=True)
        shutil.copy2(v, src/v.parent.name)
    extract_dataset(src, frames, workers=0)
    for k, note in notes(frames).items(): (frames/k/'.clip.json').write_text(json.dumps(note | dict(settings=extract_settings())))
    (frames/'manifest.json').unlink()
    return src, frames

def test_folders_that_version_0_1_0_made(old, tmp_path):
    "They are read, and done; what is made again has no hidden file any more"
    src, frames = old
    assert [video_info(f).fps for f in get_instances(frames)] == [25, 25]
    before = (frames/'A/0').stat().st_mtime_ns
    assert avi2frames(src/'A/0.avi', frames) == frames/'A/0' and (frames/'A/0').stat().st_mtime_ns == before
    with pytest.raises(ValueError, match='size'): avi2frames(src/'A/0.avi', frames, size=32)
    report = extract_dataset(src, frames, workers=0)
    assert len(report.skipped) == 2 and not report.notes and sorted(notes(frames)) == ['A/0', 'B/1']
    avi2frames(src/'A/0.avi', frames, force=True, size=32)
    assert len(os.listdir(frames/'A/0')) == length and extraction_note(frames/'A/0')['settings']['size'] == 32
    assert (frames/'B/1/.clip.json').exists() and video_info(frames/'B/1').fps == 25

def test_frames_without_their_manifest_are_frames(videos, tmp_path):
    (tmp_path/'f').mkdir()
    for make in (extract_dataset, cache_clips):
        make(videos, tmp_path/make.__name__, workers=0)
        alone = tmp_path/'f'/make.__name__
        shutil.copytree(tmp_path/make.__name__/'A/0', alone)
        assert (video_info(alone).fps, n_frames(alone), len(read_frames(alone, [0, 59]))) == (None, length, 2)
        alone = tmp_path/'split/train/A'/make.__name__
        alone.parent.mkdir(parents=True, exist_ok=True)
        alone.symlink_to(tmp_path/make.__name__/'A/0')              # as splits are often made
        assert video_info(alone).fps == 25

@pytest.mark.parametrize('last', ['rmtree', 'append', 'replace'])
def test_killed_between_the_note_and_the_folder(videos, tmp_path, monkeypatch, last):
    "No note is taken for that of other frames, wherever the process ends"
    frames, v = tmp_path/'frames', shutil.copy2(videos/'A/0.avi', tmp_path/'0.avi')
    class Killed(BaseException): pass
    def kill(*args): raise Killed
    folder = avi2frames(v, frames)
    write_video(v, (np.full((160, 240, 3), 9, np.uint8) for _ in range(length)))     # as many frames, and others
    target = dict(rmtree=(stored.shutil, 'rmtree'), append=(stored, 'append_note'), replace=(Path, 'replace'))[last]
    with monkeypatch.context() as m:
        m.setattr(*target, kill)
        with pytest.raises(Killed): store_clip(v, frames, write_frames, extract_settings(), 'raise')
    if folder.exists():
        with pytest.warns(UserWarning, match='has changed'): avi2frames(v, frames)
    else: avi2frames(v, frames)
    assert read_frames(folder, [30]).max() < 20 and extraction_note(folder)['bytes'] == v.stat().st_size

def test_a_worker_that_outlives_its_run_changes_nothing(videos, tmp_path):
    "Its unfinished folder was swept by the next run, which has made the clip since"
    avi2frames(videos/'A/0.avi', tmp_path)
    def swept(video_path, tmp, *args):
        tmp.rmdir()
        return dict(settings={})
    before = contents(tmp_path)
    with pytest.raises(FileNotFoundError, match='was killed'): store_clip(videos/'A/0.avi', tmp_path, swept, extract_settings(), 'raise')
    assert contents(tmp_path) == before

def test_a_manifest_that_is_damaged_or_of_others(videos, tmp_path):
    frames = tmp_path/'frames'
    extract_dataset(videos, frames, workers=0)
    manifest, text = frames/'manifest.json', (frames/'manifest.json').read_text()
    manifest.write_text(text[:500])
    for damaged in (lambda: extract_dataset(videos, frames, workers=0, force=True), lambda: avi2frames(videos/'A/0.avi', frames, force=True), lambda: video_info(frames/'A/0')):
        with pytest.raises(VideoError, match='manifest.json is damaged.*delete it, and extract again with force=True'): damaged()
    assert n_frames(frames/'A/0') == length
    manifest.unlink()
    assert len(extract_dataset(videos, frames, workers=0, force=True).done) == n_videos and manifest.read_text() == text
    manifest.write_text('{"videos": []}')
    for others in (lambda: extract_dataset(videos, frames, workers=0), lambda: avi2frames(videos/'A/0.avi', frames)):
        with pytest.raises(ValueError, match='is in the way'): others()
    assert manifest.read_text() == '{"videos": []}' and video_info(frames/'A/0').fps is None
