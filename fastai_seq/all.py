"""The face: fastai for vision, and what README and the tutorials teach. In notebooks, `from fastai_seq.all import *`.

All else that is public stands in its own room."""
import gc as _gc
from fastai_seq.utils import quiet_fastai as _quiet_fastai

# nothing of what is imported is garbage: to look through all of it would cost half a second
_collecting = _gc.isenabled()
_gc.disable()
try:
    with _quiet_fastai():
        from fastai.vision.all import *
    from fastai_seq.core import ImageTuple, TensorVideo, stack_frames
    from fastai_seq.video.sampling import (
        EveryFrame, FirstFrames, LastFrames, RandomClip, SegmentFrames, UniformFrames)
    from fastai_seq.video.archive import extract_archive, unrar
    from fastai_seq.video.files import VideoError, get_videos, write_video
    from fastai_seq.video.decode import extract_frames
    from fastai_seq.video.clip import VideoRange
    from fastai_seq.video.read import n_frames, read_frames, video_info
    from fastai_seq.video.extract import avi2frames, extract_dataset
    from fastai_seq.video.cache import cache_clips
    from fastai_seq.data.augment import (
        DropFrames, LabelledFlip, RandomStride, ReverseTime, SpeedJitter, safe_tfms)
    from fastai_seq.data.datasets import motion_clips, untar_hmdb51, untar_ucf101
    from fastai_seq.data.synthetic import changing_clips, frame_labels, moving_digits
    from fastai_seq.data.find import examine_clips, get_instances, group_of
    from fastai_seq.data.split import (
        GroupSplitter, HMDB51Splitter, KFoldSplitter, UCF101Splitter, check_leakage)
    from fastai_seq.data.block import ImageSeqBlock, ImageTupleTfm, TensorVideoTfm
    from fastai_seq.data.dataloaders import ImageSeqDataLoaders
    from fastai_seq.data.future import FutureDataLoaders
    from fastai_seq.data.targets import FrameCategoryBlock, FrameRegressionBlock
    from fastai_seq.data.masks import FrameMaskBlock
    from fastai_seq.models.defaults import model_splitter, normalize_stats
    from fastai_seq.models.speed import model_table, plot_models
    from fastai_seq.models.timesformer import MyTimeSformer
    from fastai_seq.models.vit_timesformer import timesformer_from_vit
    from fastai_seq.models.hf_video import hf_video_model, timesformer_from_hf
    from fastai_seq.models.motion import MotionNet
    from fastai_seq.models.per_frame import PerFrame
    from fastai_seq.models.forecaster import ConvGRUForecaster, ConvLSTMForecaster
    from fastai_seq.models.simvp import SimVP
    from fastai_seq.models.unet import TemporalUNet
    from fastai_seq.train.callbacks import CompileModel, EMA
    from fastai_seq.train.distributed import PerRank
    from fastai_seq.train.metrics import (
        MaskIoU, f1_at, frame_accuracy, frame_mse, frame_numbers_mae, mask_iou, mean_edit_score,
        psnr, ssim)
    from fastai_seq.train.forecast import copy_last, horizon_errors, plot_horizon
    from fastai_seq.train.scheduled import ScheduledSampling
    from fastai_seq.train.resume import Resumable
    from fastai_seq.train.progressive import ProgressiveClips
    from fastai_seq.train.learner import seq_learner
    from fastai_seq.train.recipe import train_clips
    from fastai_seq.judge.evaluate import evaluate_clips
    from fastai_seq.judge.folds import compare_splits, evaluate_folds
    from fastai_seq.judge.floor import beside_floor
    from fastai_seq.judge.interpret import SeqInterpretation
    from fastai_seq.judge.grad_cam import grad_cam
    from fastai_seq.judge.rollout import attention_rollout
    from fastai_seq.judge.evidence import evidence
    from fastai_seq.judge.report import write_report
    from fastai_seq.deploy.runtime import OnnxPredictor
    from fastai_seq.deploy.bundle import load_bundle, save_bundle
    from fastai_seq.deploy.hub import from_hub, push_to_hub
    from fastai_seq.deploy.predict import predict_video
    from fastai_seq.deploy.export import export_onnx
    from fastai_seq.deploy.stream import StreamPredictor
    from fastai_seq.deploy.continue_video import continue_video
    from fastai_seq.deploy.label_frames import label_frames
    from fastai_seq.deploy.predict_timeline import predict_timeline
    from fastai_seq.deploy.app import demo_app
    from fastai_seq.walkthrough import (
        RNNModel, SimpleModel, get_action_dataloaders, rnnmodel_splitter, simple_splitter)
    # these teach fastai's classes: `dls.bench`, `learn.fit_head`
    from fastai_seq.data import bench as _bench
    from fastai_seq.train import features as _features
finally:
    if _collecting: _gc.enable()
