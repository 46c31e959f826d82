"fastai for vision, and everything of fastai_seq: for notebooks, `from fastai_seq.all import *`"
import gc as _gc
from fastai_seq.utils import quiet_fastai

# nothing of what is imported is garbage: to look through all of it would cost half a second
_collecting = _gc.isenabled()
_gc.disable()
try:
    with quiet_fastai():
        from fastai.vision.all import *
    from fastai_seq.core import *
    from fastai_seq.utils import *
    from fastai_seq.page import *
    from fastai_seq.video.sampling import *
    from fastai_seq.video.read import *
    from fastai_seq.video.archive import *
    from fastai_seq.video.extract import *
    from fastai_seq.data.find import *
    from fastai_seq.data.datasets import *
    from fastai_seq.data.synthetic import *
    from fastai_seq.data.augment import *
    from fastai_seq.data.split import *
    from fastai_seq.data.check import *
    from fastai_seq.data.show import *
    from fastai_seq.data.load import *
    from fastai_seq.data.block import *
    from fastai_seq.data.labels import *
    from fastai_seq.data.dataloaders import *
    from fastai_seq.data.bench import *
    from fastai_seq.data.future import *
    from fastai_seq.data.targets import *
    from fastai_seq.data.masks import *
    from fastai_seq.data.show_targets import *
    from fastai_seq.data.task_of import *
    from fastai_seq.models.layers import *
    from fastai_seq.models.defaults import *
    from fastai_seq.models.speed import *
    from fastai_seq.models.timesformer import *
    from fastai_seq.models.videonets import *
    from fastai_seq.models.seqmodel import *
    from fastai_seq.models.seq2seq import *
    from fastai_seq.train.memory import *
    from fastai_seq.train.guards import *
    from fastai_seq.train.progressive import *
    from fastai_seq.train.resume import *
    from fastai_seq.train.distributed import *
    from fastai_seq.train.callbacks import *
    from fastai_seq.train.console import *
    from fastai_seq.train.metrics import *
    from fastai_seq.train.scheduled import *
    from fastai_seq.train.results import *
    from fastai_seq.train.learner import *
    from fastai_seq.train.features import *
    from fastai_seq.train.frame_labels import *
    from fastai_seq.train.forecast import *
    from fastai_seq.judge.evaluation import Evaluation
    from fastai_seq.judge.categories import *
    from fastai_seq.judge.multilabel import MultiCategoryEvaluation
    from fastai_seq.judge.numbers import *
    from fastai_seq.judge.looks import GivenLooks, LooksDL, clip_transforms, make_look, predict_clips, predict_looks, read_options
    from fastai_seq.judge.labelled import clip_task, evaluation_for, evaluation_targets, labelled_items
    from fastai_seq.judge.evaluate import *
    from fastai_seq.judge.folds import *
    from fastai_seq.judge.interpret import *
    from fastai_seq.judge.question import activated
    from fastai_seq.judge.evidence_view import *
    from fastai_seq.judge.grad_cam import grad_cam
    from fastai_seq.judge.rollout import attention_rollout
    from fastai_seq.judge.evidence import evidence
    from fastai_seq.judge.report import *
    from fastai_seq.data.task import *
    from fastai_seq.deploy.networks import known_networks, library_versions
    from fastai_seq.deploy.reading import clips_config
    from fastai_seq.deploy.answering import answer_config
    from fastai_seq.deploy.bundle import load_bundle, save_bundle
    from fastai_seq.deploy.hub import *
    from fastai_seq.deploy.export import *
    from fastai_seq.deploy.predict import *
    from fastai_seq.deploy.runtime import *
    from fastai_seq.deploy.stream_memory import RecurrentState
    from fastai_seq.deploy.stream import StreamAnswer, StreamForecast, StreamPredictor, stream_answer
    from fastai_seq.deploy.continue_video import *
    from fastai_seq.deploy.windows import *
    from fastai_seq.deploy.saved_answers import *
    from fastai_seq.deploy.timeline import *
    from fastai_seq.deploy.label_frames import frame_outputs, label_frames, middles
    from fastai_seq.deploy.predict_timeline import *
    from fastai_seq.deploy.timeline_view import *
    from fastai_seq.deploy.app import *
finally:
    if _collecting: _gc.enable()
