"""Files that version 0.1.0 wrote: learners, bundles, an exported model and a half-done training are opened, and answer as they did.

`files_0.1.0.zip` was made once, with that version: small models, a clip, and in `answers.json` what each said of it.
"""

import json, subprocess, sys, zipfile
from functools import partial

import numpy as np, pytest
from fastai.layers import SimpleCNN
from fastai.learner import load_learner

from conftest import root
from fastai_seq.data.datasets import motion_clips
from fastai_seq.deploy.bundle import load_bundle
from fastai_seq.train.learner import seq_learner

learners = ['lstm', 'attention', 'numbers', 'rnnmodel', 'timesformer', 'frames', 'forecast']

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    dest = tmp_path_factory.mktemp('files')
    zipfile.ZipFile(root/'tests/files_0.1.0.zip').extractall(dest)
    return dest

@pytest.fixture(scope='module')
def answers(files): return json.loads((files/'answers.json').read_text())

def check(learn, files, expected):
    with learn.no_bar(), learn.no_logging(): pred = learn.predict(files/'clip.avi')[-1]
    np.testing.assert_allclose(pred.flatten()[:50], expected, atol=1e-4)


@pytest.mark.parametrize('name', learners)
def test_a_learner_answers_as_it_did(name, files, answers):
    check(load_learner(files / f'{name}.pkl'), files, answers[name])


def test_a_learner_opens_in_a_fresh_process(files):
    "With nothing imported but fastai_seq"
    code = ("import sys, fastai_seq; from fastai.learner import load_learner; learn = load_learner(sys.argv[1]); "
            "print(*learn.dls.vocab)")
    res = subprocess.run([sys.executable, '-c', code, files/'lstm.pkl'], capture_output=True, text=True)
    assert res.stdout.split() == ['MoveLeft', 'MoveRight'], res.stderr

@pytest.mark.parametrize('name', ['lstm', 'frames'])
def test_a_bundle_answers_as_it_did(name, files, answers):
    check(load_bundle(files/f'{name}_bundle', arch=partial(SimpleCNN, [3,4,8])), files, answers[name])

def test_an_exported_model_answers_as_it_did(files, answers):
    pytest.importorskip('onnxruntime')
    from fastai_seq.deploy.runtime import OnnxPredictor
    probs = OnnxPredictor(files/'lstm.onnx')(files/'clip.avi').probs
    np.testing.assert_allclose([*probs.values()], answers['lstm'], atol=1e-3)

def test_a_training_goes_on(files, tmp_path, capsys):
    from fastai_seq.data.dataloaders import ImageSeqDataLoaders
    from fastai_seq.train.resume import Resumable
    clips = motion_clips(tmp_path/'motion', n_classes=2, n_groups=3, clips_per_group=2, n_frames=8, size=(32,32))
    dls = ImageSeqDataLoaders.from_folder(clips, seq_len=4, size=32, bs=2, seed=0, num_workers=0)
    learn = seq_learner(
        dls,
        partial(SimpleCNN, [3, 4, 8]),
        head='lstm',
        pretrained=False,
        hidden_size=4,
        bn=True,                # as heads of 0.1.0 were
        path=files,
        model_dir='.',
    )
    with learn.no_bar(): learn.fit_one_cycle(2, 1e-3, cbs=Resumable('half'))
    assert '1 of 2 epochs are done' in capsys.readouterr().out and len(learn.recorder.values) == 2
