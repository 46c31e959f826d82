"""README's moving picture: `python docs/make_picture.py` writes nbs/images/timeline.webp (3 minutes on 2 cores).

A camera moves over a photograph. The model learns four movements, and rest, on two other photographs; the film is of a third,
which it has not seen. Photographs: scikit-learn's `flower.jpg` and `china.jpg` (danielbuechele, CC BY 2.0) and matplotlib's
`grace_hopper.jpg` (public domain)."""
import random
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from fastai.vision.all import accuracy, set_seed
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image

from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.deploy.predict_timeline import predict_timeline
from fastai_seq.deploy.timeline_view import class_colors
from fastai_seq.models.motion import MotionNet
from fastai_seq.train.learner import seq_learner
from fastai_seq.video.files import write_video

fps = 8
moves = {'rest': (0, 0, 1), 'left': (-1, 0, 1), 'right': (1, 0, 1), 'closer': (0, 0, .965), 'away': (0, 0, 1/.965)}

def camera(photo, start, turns, size):
    "Frames of a camera over `photo`: `start`: centre and width of what it sees; `turns`: pairs of movement and speed, one a frame"
    x, y, width = start
    for move, speed in turns:
        dx, dy, zoom = moves[move]
        x, y, width = x + dx*speed*width, y + dy*speed*width, width*zoom
        height = width*size[1]/size[0]
        box = (x - width/2, y - height/2, x + width/2, y + height/2)
        yield photo.resize(size, Image.BILINEAR, box=box)

def random_clip(photo, move, rng, n=12):
    "A clip of one movement, from somewhere in `photo`"
    width = photo.width*rng.uniform(.2, .3)
    margin = width*.95
    x, y = rng.uniform(margin, photo.width - margin), rng.uniform(width, photo.height - width)
    return list(camera(photo, (x, y, width), [(move, rng.uniform(.02, .04))]*n, (112, 112)))

def make_clips(path, photos, per_class=200, seed=0):
    "A folder of clips, `path/movement/clip`, each photograph a recording"
    rng = random.Random(seed)
    for move in moves:
        for i in range(per_class):
            g = i % len(photos)
            clip = [np.asarray(f) for f in random_clip(photos[g], move, rng)]
            write_video(path/move/f'v_{move}_g{g*100 + i//10:03}_c{i:02}.mp4', clip, fps=fps)
    return path

def film(photo):
    "The film of README"
    script = [('rest', 12), ('right', 20), ('closer', 18), ('rest', 10), ('left', 20), ('away', 16)]
    turns = [(move, .03) for move, n in script for _ in range(n)]
    return list(camera(photo, (190, 215, 200), turns, (384, 216)))

def draw(frames, timeline, path):
    "The film, with its time line below and the answer of the moment on it"
    colors = {name: tuple(int(255*v) for v in c[:3]) for name, c in class_colors(list(moves)).items()}
    font, small = (ImageFont.load_default(s) for s in (20, 13))
    width, height = frames[0].size
    drawn = []
    for i, frame in enumerate(frames):
        page = Image.new('RGB', (width, height + 34), 'white')
        page.paste(frame)
        pen = ImageDraw.Draw(page)
        window = timeline.at(i/fps)
        label, text = timeline.df.label[window], timeline.text(window)
        pen.rectangle((8, 8, 20 + pen.textlength(text, font), 36), fill=colors[label])
        pen.text((14, 9), text, 'white', font)
        for part in timeline.segments().itertuples():
            left, right = (int(t*fps/len(frames)*width) for t in (part.start, part.end))
            pen.rectangle((left, height + 4, right, height + 30), fill=colors[part.label])
            if right - left > 45: pen.text((left + 5, height + 8), part.label, 'white', small)
        now = int(i/len(frames)*width)
        pen.rectangle((now - 1, height, now + 2, height + 34), fill='black')
        drawn.append(page)
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=1000//fps, loop=0, quality=60, method=6)

def photograph(name):
    if name.endswith('hopper.jpg'): return Image.open(get_sample_data(name, asfileobj=False)).convert('RGB')
    return Image.fromarray(load_sample_image(name))

if __name__ == '__main__':
    set_seed(0)
    folder = Path(mkdtemp())
    seen = [photograph(name) for name in ('flower.jpg', 'grace_hopper.jpg')]
    clips = make_clips(folder/'clips', seen)
    dls = ImageSeqDataLoaders.from_folder(clips, seq_len=8, size=64, bs=16, seed=0)
    learn = seq_learner(dls, MotionNet(dls.c), metrics=accuracy)
    learn.fit_one_cycle(10, 3e-3)
    frames = film(photograph('china.jpg'))
    video = write_video(folder/'film.mp4', [np.asarray(f) for f in frames], fps=fps)
    timeline = predict_timeline(learn, folder/'film.mp4', window=1., stride=.25)
    print(timeline)
    draw(frames, timeline, Path(__file__).parent.parent/'nbs/images/timeline.webp')
