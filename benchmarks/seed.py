"""The walk-through's own functions, as they were: the reference that benchmarks measure against. Not to be improved."""
import av
from fastai.vision.all import *

def extract_frames(video_path):
    "convert video to PIL images"
    video = av.open(str(video_path))
    for frame in video.decode(0):
        yield frame.to_image()

def avi2frames(video_path, path_frames, force=False):
    "convert video to PIL images"
    dest_path = path_frames/video_path.parent.name/video_path.with_suffix('').name
    if not dest_path.exists() or force:
        dest_path.mkdir(parents=True, exist_ok=True)
        for i, frame in enumerate(extract_frames(video_path)):
            frame.save(dest_path/f'{i}.jpg')

def ls_sorted(path):
    "ls but sorts files by name numerically"
    return path.ls().sorted(key=lambda f: int(f.with_suffix('').name))

class ImageTuple(fastuple):
    "A tuple of PILImages"

class ImageTupleTfm(Transform):
    "A wrapper to hold the data on path format"
    def __init__(self, seq_len=20): store_attr()

    def encodes(self, path: Path):
        "Get a list of images files for folder path"
        images = ls_sorted(path)
        s = slice(0, min(self.seq_len, len(images)))
        return ImageTuple(tuple(PILImage.create(f) for f in images[s]))
