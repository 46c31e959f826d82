"fastai for vision, and everything of fastai_seq: for notebooks, `from fastai_seq.all import *`"
from fastai.vision.all import *
from fastai_seq.core import *
from fastai_seq.files import *
from fastai_seq.sampling import *
from fastai_seq.video import *
from fastai_seq.archive import *
from fastai_seq.datasets import *
from fastai_seq.augment import *
from fastai_seq.data import *
from fastai_seq.layers import *
from fastai_seq.speed import *
from fastai_seq.timesformer import *
from fastai_seq.videonets import *
from fastai_seq.models import *
from fastai_seq.callbacks import *
from fastai_seq.learner import *
from fastai_seq.evaluate import *
