"Killed runs, and files that are not what they say."
import os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest

from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.walkthrough import get_action_dataloaders
from fastai_seq.data.block import ImageTupleTfm
from fastai_seq.data.check import check_clips
from fastai_seq.data.find import get_instances
from fastai_seq.video.extract import avi2frames, extract_dataset
from fastai_seq.video.decode import extract_frames
from fastai_seq.video.files import VideoError, write_video
from fastai_seq.video.read import n_frames, read_frames

@pytest.mark.slow
def test_killed_extraction_goes_on(tmp_path):
    "Killed at several moments, what has its name is whole, and the last run completes the rest"
    for i in range(12):
        write_video(
            tmp_path / f'videos/A/{i}.avi',
            (np.full((96, 128, 3), (i * 20 + t) % 255, np.uint8) for t in range(40)),
        )
    code = "import sys; from fastai_seq.video.extract import *; extract_dataset(sys.argv[1], sys.argv[2], workers=0)"
    frames = tmp_path/'frames'
    for wanted in (1, 4, 8):
        run = subprocess.Popen(
            [sys.executable, '-c', code, tmp_path / 'videos', frames],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while run.poll() is None and len(list(frames.glob('A/[0-9]*'))) < wanted: time.sleep(.001)
        run.send_signal(signal.SIGKILL)
        run.wait()
        for folder in frames.glob('A/[0-9]*'): assert len(folder.ls_sorted()) == 40
    assert extract_dataset(tmp_path/'videos', frames, workers=2).failed == []
    assert sorted(f.name for f in get_instances(frames)) == sorted(
        str(i) for i in range(12)
    )  # hidden leftovers are no clips
    assert {n_frames(f) for f in get_instances(frames)} == {40}

def test_wrong_files_are_named_before_training(clips, tmp_path):
    good = get_instances(clips)
    text, empty = tmp_path/'A/text.avi', tmp_path/'A/empty.mp4'
    gap = avi2frames(good[0], tmp_path/'frames')
    (gap/'3.jpg').unlink()
    foreign = avi2frames(good[1], tmp_path/'frames')
    (foreign/'cover.jpg').write_bytes((foreign/'0.jpg').read_bytes())
    void = tmp_path/'A/void'
    void.mkdir(parents=True)
    text.write_text('not a video')
    empty.touch()
    with pytest.raises(VideoError) as e: get_action_dataloaders([*good, text, empty, gap, foreign, void], bs=2)
    for path in (text, empty, gap, foreign, void): assert str(path) in str(e.value)
    assert '5 of 29 clips cannot be used' in str(e.value)

def test_wrong_folders_are_named(clips, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere'): ImageSeqDataLoaders.from_folder(tmp_path/'nowhere')
    with pytest.raises(ValueError, match=f'{tmp_path}: no clips'): ImageSeqDataLoaders.from_folder(tmp_path)
    one = tmp_path/'one/MoveUp'
    one.parent.mkdir()
    one.symlink_to(clips/'MoveLeft')
    with pytest.raises(ValueError, match='one class only: MoveUp'): ImageSeqDataLoaders.from_folder(tmp_path/'one')
    with pytest.raises(ValueError, match='seq_len=0'): ImageSeqDataLoaders.from_folder(clips, seq_len=0)
    with pytest.raises(ValueError, match='seq_len=0'): get_action_dataloaders(get_instances(clips), seq_len=0)

def test_a_video_without_frames(tmp_path, clips):
    "Only the head of a real file: it opens, and nothing decodes"
    data = next((clips/'MoveLeft').iterdir()).read_bytes()
    cut = tmp_path/'cut.avi'
    cut.write_bytes(data[:data.index(b'movi')+4])
    for read in (
        lambda: list(extract_frames(cut)),
        lambda: n_frames(cut),
        lambda: ImageTupleTfm(3)(cut),
        lambda: avi2frames(cut, tmp_path / 'frames'),
    ):
        with pytest.raises(VideoError, match='cut.avi'): read()
    assert not list((tmp_path/'frames').rglob('cut*'))

def test_file_handles_are_closed(clips):
    files = get_instances(clips)
    handles = lambda: len(os.listdir('/proc/self/fd')) if Path('/proc/self/fd').exists() else 0
    read_frames(files[0], [0])
    before = handles()
    for i in range(100): read_frames(files[i % len(files)], [i % 12])
    frames = extract_frames(files[0])
    next(frames)
    frames.close()
    assert handles() == before
