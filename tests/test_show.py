"Clips that play: they do, in a browser."
import shutil, subprocess
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import numpy as np, pytest, torch
from PIL import Image

from fastai_seq.data import show as data_module
from fastai_seq.core import TensorVideo, clips_html
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai.data.transforms import Normalize
from fastai.vision.core import imagenet_stats

@pytest.fixture
def page(clips, monkeypatch):
    "What `show_batch(animate=True)` displays of a batch of nine"
    shown = []
    monkeypatch.setattr(data_module, 'display', lambda h: shown.append(h.data))
    dls = ImageSeqDataLoaders.from_folder(
        clips, seq_len=12, size=112, bs=9, num_workers=0, batch_tfms=Normalize.from_stats(*imagenet_stats)
    )
    dls.show_batch(animate=True)
    return shown[0]

def test_a_batch_is_small_and_whole(page):
    assert page.count('<img') == 9 and len(page) < 2_000_000 and 'src="http' not in page and 'MoveLeft' in page

@pytest.mark.slow
def test_the_bound_holds():
    torch.manual_seed(0)
    noise = [TensorVideo(torch.randint(0, 255, (32, 3, 224, 224), dtype=torch.uint8)) for _ in range(9)]
    assert 200_000 < len(clips_html(noise)) <= 2_010_000

def test_it_plays_in_a_browser(page, tmp_path):
    "Two screenshots at different moments differ: the later page waits for a slow picture"
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not browser: pytest.skip('no chromium')
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args): super().__init__(*args, directory=tmp_path)
        def log_message(self, *args): pass
        def do_GET(self):
            if not self.path.startswith('/slow'): return super().do_GET()
            Event().wait(float(self.path.split('?')[1]))
            self.send_error(404)
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    shots = []
    for secs in (.1, .9):
        (tmp_path/f'{secs}.html').write_text(f'<meta charset="utf-8">{page}<img src="/slow?{secs}" width="1">')
        subprocess.run(
            [
                browser,
                '--headless',
                '--no-sandbox',
                '--disable-gpu',
                '--disable-quic',
                '--no-first-run',
                '--disable-background-networking',
                '--disable-component-update',
                f'--user-data-dir={tmp_path}/profile{secs}',
                f'--screenshot={tmp_path}/{secs}.png',
                '--window-size=800,420',
                f'http://127.0.0.1:{server.server_port}/{secs}.html',
            ],
            capture_output=True,
            timeout=120,
            check=True,
        )
        shots.append(np.asarray(Image.open(tmp_path/f'{secs}.png').convert('RGB')).astype(int))
    server.shutdown()
    assert shots[0].std() > 10 and np.abs(shots[0] - shots[1]).mean() > 1
