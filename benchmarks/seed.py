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

class SimpleModel(Module):
    "Mean over frames of the logits, each frame by itself"
    def __init__(self, arch=resnet34, n_out=101):
        self.encoder = TimeDistributed(create_body(arch(weights=None), pretrained=False))
        self.head = TimeDistributed(create_head(512, n_out))

    def forward(self, x):
        x = torch.stack(x, dim=1)
        return self.head(self.encoder(x)).mean(dim=1)

class RNNModel(Module):
    "An LSTM over the features of the frames"
    def __init__(self, arch=resnet34, n_out=101, num_rnn_layers=1):
        self.encoder = TimeDistributed(
            nn.Sequential(
                create_body(arch(weights=None), pretrained=False), nn.AdaptiveAvgPool2d(1), Flatten()
            )
        )
        self.rnn = nn.LSTM(512, 512, num_layers=num_rnn_layers, batch_first=True)
        self.head = LinBnDrop(num_rnn_layers*512, n_out)

    def forward(self, x):
        x = torch.stack(x, dim=1)
        _, (h, _) = self.rnn(self.encoder(x))
        return self.head(h.transpose(0, 1).flatten(1))
