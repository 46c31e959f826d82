"fastai for vision, and everything of fastai_seq: for notebooks, `from fastai_seq.all import *`"
import gc as _gc
from fastai_seq.quiet import quiet_fastai

# nothing of what is imported is garbage: to look through all of it would cost half a second
_collecting = _gc.isenabled()
_gc.disable()
try:
    with quiet_fastai():
        from fastai.vision.all import *
    from fastai_seq.core import *
    from fastai_seq.files import *
    from fastai_seq.quiet import *
    from fastai_seq.sampling import *
    from fastai_seq.video import *
    from fastai_seq.archive import *
    from fastai_seq.extract import *
    from fastai_seq.clips import *
    from fastai_seq.datasets import *
    from fastai_seq.digits import *
    from fastai_seq.augment import *
    from fastai_seq.data import *
    from fastai_seq.targets import *
    from fastai_seq.layers import *
    from fastai_seq.speed import *
    from fastai_seq.timesformer import *
    from fastai_seq.videonets import *
    from fastai_seq.models import *
    from fastai_seq.seq2seq import *
    from fastai_seq.callbacks import *
    from fastai_seq.console import *
    from fastai_seq.learner import *
    from fastai_seq.seq2seq_learner import *
    from fastai_seq.evaluate import *
    from fastai_seq.interpret import *
    from fastai_seq.report import *
    from fastai_seq.answer import *
    from fastai_seq.bundle import *
    from fastai_seq.export import *
    from fastai_seq.inference import *
    from fastai_seq.runtime import *
    from fastai_seq.stream import *
    from fastai_seq.timeline import *
    from fastai_seq.app import *
finally:
    if _collecting: _gc.enable()
