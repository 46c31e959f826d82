"Pages in a browser: a timeline plays with its labels; in the demo a video that is put in gets its timeline, a camera its answers."

import re, shutil
from functools import partial

import av, matplotlib.pyplot, numpy as np, pytest, torch
from fastai.layers import SimpleCNN
from PIL import Image

from fastai_seq.deploy.app import demo_app
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.train.learner import seq_learner
from fastai_seq.deploy.predict_timeline import predict_timeline
from fastai_seq.video.files import write_video

pytestmark = pytest.mark.slow

matplotlib.use('agg')
gradio = pytest.importorskip('gradio')
driver = pytest.importorskip('playwright.sync_api')
chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
if not chromium: pytest.skip('no Chromium', allow_module_level=True)


def noise(n, w, h):
    return [
        np.asarray(Image.fromarray(f).resize((w, h)))
        for f in np.random.default_rng(0).integers(0, 256, (n, 6, 8, 3), dtype=np.uint8)
    ]


@pytest.fixture(scope='module')
def page(clips, tmp_path_factory):
    "The page, the learner, and a folder with a video and what the camera sees"
    tmp = tmp_path_factory.mktemp('page')
    torch.manual_seed(0)
    learn = seq_learner(
        ImageSeqDataLoaders.from_folder(clips, seq_len=3, size=32, bs=4, seed=0, num_workers=0),
        partial(SimpleCNN, [3, 4, 8]),
        head='lstm',
        pretrained=False,
        hidden_size=8,
    )
    write_video(tmp/'v.mp4', noise(30, 64, 48), 10, 'libx264' if 'libx264' in av.codecs_available else 'mpeg4')
    (tmp/'bad.mp4').write_text('no video')
    with av.open(str(tmp/'cam.mjpeg'), 'w', format='mjpeg') as out:
        s = out.add_stream('mjpeg', rate=10)
        s.width, s.height, s.pix_fmt = 320, 240, 'yuvj420p'
        for f in noise(20, 320, 240): out.mux(s.encode(av.VideoFrame.from_ndarray(f, format='rgb24')))
        out.mux(s.encode())
    app = demo_app(learn, 1., .5)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True)
    with driver.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=chromium,
            args=[
                '--no-sandbox',
                '--use-fake-ui-for-media-stream',
                '--use-fake-device-for-media-stream',
                f'--use-file-for-fake-video-capture={tmp}/cam.mjpeg',
            ],
        )
        page = browser.new_context(permissions=['camera']).new_page()
        page.set_default_timeout(60_000)
        page.goto(url)
        yield page, learn, tmp
        browser.close()
    app.close()

def put_in(page, file, tries=10):
    "The page shows its form before it listens to it: until then a file is put in once more"
    try:
        with page.expect_response(re.compile('/upload'), timeout=5_000):
            page.set_input_files('input[type=file]', str(file))
    except driver.TimeoutError:
        if tries == 1: raise
        put_in(page, file, tries-1)

def test_a_video_gets_its_timeline(page):
    page, learn, tmp = page
    put_in(page, tmp/'v.mp4')
    page.wait_for_selector('td:has-text("Move")', state='attached')
    assert (
        page.locator('video').count() == 2
        and page.locator('img[src*="data:image"], img[src*="/file="]').count() >= 1
    )
    for s in predict_timeline(learn, tmp / 'v.mp4', 1.0, 0.5, progress=False).segments().itertuples():
        assert page.locator(f'td:has-text("{s.label}")').count()

def test_the_camera_gets_answers(page):
    page, learn, _ = page
    page.get_by_role('tab', name='Camera').click()
    page.get_by_text('Click to Access Webcam').first.click()
    page.get_by_text('Record', exact=True).first.click()
    page.wait_for_selector('text=/\\d{2,} frames, .* a second; an answer takes/')     # ten and more
    assert re.search(r'Move(Left|Right)\n\d+%', page.inner_text('body'))

def test_annotated_videos_go_where_they_are_asked_for(page, tmp_path):
    _, learn, tmp = page
    figures = len(matplotlib.pyplot.get_fignums())
    app = demo_app(learn, 1., .5, folder=tmp_path/'a/b')
    timeline = next(f.fn for f in app.fns.values() if f.api_name == 'timeline')
    video, _, _ = timeline(str(tmp/'v.mp4'))
    assert [str(o) for o in (tmp_path/'a/b').iterdir()] == [video] and len(matplotlib.pyplot.get_fignums()) == figures

def test_the_page_of_a_timeline_plays_with_its_labels(page):
    page, learn, tmp = page
    tl = predict_timeline(learn, tmp/'v.mp4', 1., .5, progress=False)
    page.goto(tl.to_html(tmp/'page.html').as_uri())
    for t in (.2, 2.6):
        page.evaluate(f"document.getElementById('v').currentTime = {t}")
        page.wait_for_function(f"document.getElementById('label').textContent == {tl.text(tl.at(t))!r}")
    page.locator('tr[data-t]').first.click()
    page.wait_for_function("document.getElementById('v').currentTime < 2 && !document.getElementById('v').paused")
