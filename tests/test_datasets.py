"Downloads from servers good and bad, data sets extracted whole or not at all, and the official folds."
import gzip, re, shutil, ssl, subprocess, warnings
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from conftest import real, stored_rar
from fastai_seq.data import datasets
from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.datasets import download_file, hmdb51_fold, ucf101_fold, untar_hmdb51, untar_ucf101

class Handler(BaseHTTPRequestHandler):
    "Serves the server's `files`; `cut`: stop after so many bytes; `ranges`: 'if' (as it should be), 'always' (does not look at If-Range), 'never'"
    def do_GET(self):
        s, name = self.server, self.path[1:]
        asked = {k: self.headers[k] for k in ('Range', 'If-Range') if self.headers[k]}
        s.asked.append(asked)
        if name in s.moved: return self.answer(302, b'', {'Location': s.moved[name]})
        if name not in s.files: return self.answer(404, b'<html>', {})
        body, same = s.files[name], asked.get('If-Range') in (None, *s.tags.values())
        start = (
            int(re.fullmatch(r'bytes=(\d+)-', asked['Range'])[1])
            if 'Range' in asked and (s.ranges == 'always' or s.ranges == 'if' and same)
            else 0
        )
        if start >= len(body) > 0: return self.answer(416, b'', {'Content-Range': f'bytes */{len(body)}'})
        self.answer(206 if start else 200, body[start:],
                    {**s.tags, **({'Content-Range': f'bytes {start}-{len(body)-1}/{len(body)}'} if start else {})})
    def answer(self, status, body, headers):
        if 'gzip' in self.headers['Accept-Encoding']:
            body, headers = gzip.compress(body), {**headers, 'Content-Encoding': 'gzip'}
        self.send_response(status)
        for h in {
            'Content-Type': 'application/x-rar',
            'Content-Length': len(body),
            **headers,
            **self.server.headers,
        }.items():
            if h[1] is not None: self.send_header(*h)
        self.end_headers()
        self.wfile.write(body[:self.server.cut])
    def log_message(self, *args): pass

@pytest.fixture
def serve(monkeypatch):
    "Starts servers, as `serve(files)`"
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    servers = []
    def start(files, certificate=None):
        s = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        s.files, s.tags, s.headers, s.moved, s.asked, s.cut, s.ranges = files, {'ETag': '"v1"'}, {}, {}, [], None, 'if'
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            s.socket = tls.wrap_socket(s.socket, server_side=True)
        s.url = f"http{'s' if certificate else ''}://127.0.0.1:{s.server_port}"
        Thread(target=s.serve_forever, kwargs=dict(poll_interval=.01), daemon=True).start()
        servers.append(s)
        return s
    yield start
    for s in servers:
        s.shutdown()
        s.server_close()

body = bytes(range(256))*2000     # 512,000 bytes
other = body[::-1]

def fails(server, dest, contains):
    "The download fails so, leaves nothing under the name, and says how to do it by hand"
    with pytest.raises(OSError) as e: download_file(f'{server.url}/big.rar', dest)
    for o in (contains, f"curl -fL -C - -o '{dest}' '{server.url}/big.rar'", f'whole at {dest}'):
        assert o in str(e.value)
    assert not dest.exists()
    return str(e.value)

@pytest.fixture
def cut(serve, tmp_path):
    "A server, and a download from it that broke off"
    s, dest = serve({'big.rar': body}), tmp_path/'new/big.rar'
    s.cut = 300_000
    assert 'call again, and it goes on from there if the server can' in fails(s, dest, 'bytes are kept')
    s.cut, part = None, dest.with_name('.big.rar.part')
    assert 200_000 < part.stat().st_size <= 300_000 and part.read_bytes() == body[:part.stat().st_size]
    return s, dest, part

def get(s, dest): return download_file(f'{s.url}/big.rar', str(dest)).read_bytes()

def test_download_and_nothing_is_left_beside(serve, tmp_path):
    s = serve({'big.rar': body})
    assert get(s, tmp_path/'big.rar') == body and [f.name for f in tmp_path.iterdir()] == ['big.rar']
    assert get(s, tmp_path/'big.rar') == body and len(s.asked) == 1       # there: asks nobody

def test_goes_on(cut):
    s, dest, part = cut
    have = part.stat().st_size
    assert get(s, dest) == body and s.asked[1:] == [{'Range': f'bytes={have}-', 'If-Range': '"v1"'}]
    assert [f.name for f in dest.parent.iterdir()] == ['big.rar']

def test_cut_again_and_again(cut):
    s, dest, part = cut
    s.cut = 100_000
    have = part.stat().st_size
    fails(s, dest, 'bytes are kept')
    assert part.stat().st_size > have
    s.cut = None
    assert get(s, dest) == body

@pytest.mark.parametrize('ranges', ['if', 'always', 'never'])
@pytest.mark.parametrize('tags', [{'ETag': '"v2"'}, {'Last-Modified': 'Mon, 01 Jan 2024 00:00:00 GMT'}], ids=['etag', 'date'])
def test_a_changed_file_is_begun_anew(cut, ranges, tags):
    s, dest, part = cut
    s.files['big.rar'], s.tags, s.ranges = other, tags, ranges
    assert get(s, dest) == other

def test_a_file_of_another_size_is_begun_anew_without_tags(serve, tmp_path):
    s, dest = serve({'big.rar': body}), tmp_path/'big.rar'
    s.tags, s.cut = {}, 300_000
    fails(s, dest, 'bytes are kept')
    s.cut, s.files['big.rar'] = None, other*2
    assert get(s, dest) == other*2 and 'If-Range' not in s.asked[1]

def test_a_server_that_goes_on_elsewhere(cut):
    s, dest, part = cut
    s.headers = {'Content-Range': f'bytes 5-{len(body)-1}/{len(body)}'}
    assert get(s, dest) == body and s.asked[2:] == [{}]

def test_without_range(cut):
    s, dest, part = cut
    s.ranges = 'never'
    assert get(s, dest) == body

def test_weak_tags_are_not_trusted(serve, tmp_path):
    s, dest = serve({'big.rar': body}), tmp_path/'big.rar'
    s.tags, s.cut = {'ETag': 'W/"1"', 'Last-Modified': 'Mon, 01 Jan 2024 00:00:00 GMT'}, 300_000
    fails(s, dest, 'bytes are kept')
    s.cut = None
    assert get(s, dest) == body and s.asked[1]['If-Range'] == s.tags['Last-Modified']

def test_parts_that_are_whole_too_long_or_another_files(cut):
    s, dest, part = cut
    for data, asks in ((body, 0), (body+b'more', 1)):
        shutil.copy(part.with_name('.big.rar.part.json'), part.parent/'note')
        part.write_bytes(data)
        s.asked.clear()
        assert get(s, dest) == body and len(s.asked) == asks and not any('Range' in a for a in s.asked)
        dest.unlink()
        shutil.move(part.parent/'note', part.with_name('.big.rar.part.json'))
    s.asked.clear()
    part.write_bytes(other[:1000])
    part.with_name('.big.rar.part.json').unlink()
    assert get(s, dest) == body and s.asked == [{}]                       # without its note, a part is of nothing
    dest.unlink()
    s.cut = 300_000
    fails(s, dest, 'kept')
    s.cut = None
    s.files['new.rar'] = other
    assert download_file(f'{s.url}/new.rar', dest).read_bytes() == other    # of another address

def test_416(cut):
    "The file became shorter than what is there, and the server looks at no tags"
    s, dest, part = cut
    s.ranges, s.files['big.rar'] = 'always', body[:1000]
    assert get(s, dest) == body[:1000] and len(s.asked) == 3

def test_a_short_body_is_no_file(serve, tmp_path):
    s = serve({'big.rar': body})
    s.headers = {'Content-Length': len(body)+10}
    fails(s, tmp_path/'big.rar', 'call again')
    assert not (tmp_path/'big.rar').exists()

def test_a_rest_that_is_not_all_of_it(cut):
    s, dest, part = cut
    have = part.stat().st_size
    s.headers, s.cut = {'Content-Range': f'bytes {have}-{have+9}/{len(body)}', 'Content-Length': 10}, 10
    fails(s, dest, f'{have+10:,} of {len(body):,} bytes came')
    s.headers, s.cut = {}, None
    assert get(s, dest) == body

def test_size_not_told(serve, tmp_path):
    s = serve({'big.rar': body})
    s.headers, s.tags = {'Content-Length': None}, {}
    assert get(s, tmp_path/'big.rar') == body

def test_refusals_are_told(serve, tmp_path):
    s = serve({'web.rar': b'<html>', 'big.rar': body})
    s.files.pop('big.rar')
    fails(s, tmp_path/'big.rar', '404')
    s.files['big.rar'], s.headers = b'<html>We have moved', {'Content-Type': 'text/html; charset=utf-8'}
    fails(s, tmp_path/'big.rar', 'a web page')
    s.shutdown()
    s.server_close()
    fails(s, tmp_path/'big.rar', 'was not downloaded')                  # connection refused
    (tmp_path/'big.rar').write_bytes(body)                               # fetched by hand
    assert get(s, tmp_path/'big.rar') == body

@pytest.fixture(scope='session')
def certificate(tmp_path_factory):
    "A certificate for 127.0.0.1 that it signed itself, with its key"
    if not shutil.which('openssl'): pytest.skip('openssl is not installed')
    pem = tmp_path_factory.mktemp('tls')/'self.pem'
    subprocess.run(
        [
            'openssl',
            'req',
            '-x509',
            '-newkey',
            'rsa:2048',
            '-nodes',
            '-days',
            '2',
            '-subj',
            '/CN=127.0.0.1',
            '-addext',
            'subjectAltName=IP:127.0.0.1',
            '-keyout',
            pem,
            '-out',
            f'{pem}.crt',
        ],
        check=True,
        capture_output=True,
    )
    with pem.open('a') as f: f.write(Path(f'{pem}.crt').read_text())
    return pem

def test_certificates_are_verified(serve, certificate, tmp_path, monkeypatch):
    s, plain = serve({'big.rar': body}, certificate), serve({'big.rar': body})
    fails(s, tmp_path/'big.rar', 'certificate could not be verified')
    assert not s.asked and list(tmp_path.iterdir()) == []
    monkeypatch.setenv(
        'REQUESTS_CA_BUNDLE', str(certificate)
    )  # the same server, trusted: it was the certificate
    assert get(s, tmp_path/'trusted.rar') == body
    s.moved['big.rar'] = f'{plain.url}/big.rar'
    fails(s, tmp_path/'big.rar', 'without https')

# Data sets

@pytest.fixture
def ucf(serve, tmp_path, monkeypatch):
    s = serve({
        'UCF101.rar': (
            stored_rar(
                tmp_path / 'made.rar',
                {f'UCF-101/{c}/v_{c}_g01_c01.avi': c.encode() for c in ('Archery', 'Bowling')},
            ).read_bytes()
        )
    })
    monkeypatch.setitem(datasets._urls, 'ucf101', f'{s.url}/UCF101.rar')
    return s

def test_untar_ucf101(ucf, tmp_path):
    untar = partial(untar_ucf101, tmp_path/'clips', tmp_path/'archive')
    ucf.cut = 100
    with pytest.raises(OSError, match='UCF101.rar was not downloaded'): untar()
    assert not (tmp_path/'clips').exists()
    ucf.cut = None
    assert sorted(str(f.relative_to(untar())) for f in untar().rglob('*.avi')) == [
        'Archery/v_Archery_g01_c01.avi',
        'Bowling/v_Bowling_g01_c01.avi',
    ]
    asked = len(ucf.asked)
    (tmp_path/'archive/UCF101.rar').unlink()
    assert (
        untar() == tmp_path / 'clips' and len(ucf.asked) == asked
    )  # extracted: neither server nor archive is needed

def test_untar_goes_on_from_a_file_fetched_by_hand(ucf, tmp_path):
    (tmp_path/'hand').mkdir()
    (tmp_path/'hand/UCF101.rar').write_bytes((tmp_path/'made.rar').read_bytes()[:-12])        # not whole
    with pytest.raises(ValueError, match='hand/UCF101.rar could not be extracted'):
        untar_ucf101(tmp_path / 'clips', tmp_path / 'hand')
    assert not (tmp_path/'clips').exists()
    shutil.copy(tmp_path/'made.rar', tmp_path/'hand/UCF101.rar')
    assert len(list(untar_ucf101(tmp_path/'clips', tmp_path/'hand').glob('[!.]*'))) == 2 and not ucf.asked

def test_untar_into_other_things_is_refused_before_the_download(ucf, tmp_path):
    (tmp_path/'mine/Archery').mkdir(parents=True)
    (tmp_path/'mine/Archery/holiday.avi').touch()
    for dest in (tmp_path/'mine', tmp_path/'made.rar'):
        with pytest.raises(ValueError, match=f'{dest} holds other things than UCF101.rar'):
            untar_ucf101(dest, tmp_path / 'archive')
    assert not ucf.asked

def test_untar_to_fastais_folders(ucf, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, 'fastai_path', lambda key: tmp_path/'home'/key)
    assert untar_ucf101() == tmp_path/'home/data/UCF-101' and (tmp_path/'home/archive/UCF101.rar').exists()

classes = ('wave', 'clap', 'chew')

@pytest.fixture
def hmdb(serve, tmp_path, monkeypatch):
    made = tmp_path/'made'
    made.mkdir()
    clips = {c: {f'{c}/{i}_{c}_u_nm_np1_fr_med_{i}.avi': f'{c}{i}'.encode() for i in range(4)} for c in classes}
    lists = {
        f'testTrainMulti_7030_splits/{c}_test_split{fold}.txt': (
            ''.join(f"{Path(n).name} {(i+fold)%3} \r\n" for i, n in enumerate(clips[c])).encode()
        )
        for c in classes
        for fold in (1, 2, 3)
    }
    inner = {f'{c}.rar': stored_rar(made/f'{c}.rar', m).read_bytes() for c, m in clips.items()}
    s = serve({
        'hmdb51_org.rar': stored_rar(made / 'all.rar', inner).read_bytes(),
        'test_train_splits.rar': stored_rar(made / 'splits.rar', lists).read_bytes(),
    })
    for key, name in (('hmdb51', 'hmdb51_org.rar'), ('hmdb51_splits', 'test_train_splits.rar')):
        monkeypatch.setitem(datasets._urls, key, f'{s.url}/{name}')
    return s

def test_untar_hmdb51_and_its_folds(hmdb, tmp_path):
    path, splits = untar_hmdb51(tmp_path/'data/hmdb51', tmp_path/'archive')
    assert sorted(c.name for c in path.iterdir()) == sorted(classes) and len(list(path.glob('*/*.avi'))) == 12
    assert sorted(f.name for f in path.parent.iterdir()) == ['.hmdb51_splits.archive.json', 'hmdb51', 'hmdb51_splits']
    files = sorted(path.glob('*/*.avi'))
    for fold in (1, 2, 3):
        marks = [(int(f.name[0])+fold) % 3 for f in files]
        assert hmdb51_fold(files, splits, fold) == tuple(
            [i for i, m in enumerate(marks) if m == part] for part in (1, 2)
        )
    shutil.rmtree(tmp_path/'archive')
    hmdb.asked.clear()
    assert untar_hmdb51(tmp_path/'data/hmdb51', tmp_path/'archive') == (path, splits) and not hmdb.asked

def test_untar_hmdb51_goes_on(hmdb, tmp_path, monkeypatch):
    "Stopped at any call of unrar, nothing has the name; what is extracted is not extracted again"
    unrar, done, dest = datasets.unrar, [], tmp_path/'data/hmdb51'
    for _ in range(5):
        left = [1]    # one archive a run
        def limited(fname, dest):
            if not Path(dest).exists():
                if not left[0]: raise KeyboardInterrupt
                left[0] -= 1
                done.append(Path(fname).name)
            return unrar(fname, dest)
        monkeypatch.setattr(datasets, 'unrar', limited)
        try:untar_hmdb51(dest, tmp_path/'archive'); break
        except KeyboardInterrupt: assert not dest.exists()
    assert done == ['test_train_splits.rar', 'hmdb51_org.rar', 'chew.rar', 'clap.rar', 'wave.rar']
    assert len(list(dest.glob('*/*.avi'))) == 12 and sorted(f.name for f in dest.parent.iterdir()) == [
        '.hmdb51_splits.archive.json',
        'hmdb51',
        'hmdb51_splits',
    ]

def test_a_broken_class_leaves_no_data_set(hmdb, tmp_path):
    hmdb.files['hmdb51_org.rar'] = stored_rar(
        tmp_path / 'all.rar',
        {'clap.rar': (tmp_path / 'made/clap.rar').read_bytes(), 'wave.rar': b'not an archive'},
    ).read_bytes()
    with pytest.raises(ValueError, match='wave.rar'): untar_hmdb51(tmp_path/'hmdb51', tmp_path/'archive')
    assert not (tmp_path/'hmdb51').exists()

def test_an_archive_without_classes_is_named(hmdb, tmp_path):
    hmdb.files['hmdb51_org.rar'] = stored_rar(tmp_path/'all.rar', {'clap/x.avi': b'x'}).read_bytes()
    with pytest.raises(ValueError, match='hmdb51_org.rar: expected an archive of one .rar a class'):
        untar_hmdb51(tmp_path / 'hmdb51', tmp_path / 'archive')

def test_untar_hmdb51_through_a_link(hmdb, tmp_path):
    (tmp_path/'disk/empty').mkdir(parents=True)
    (tmp_path/'link').symlink_to(tmp_path/'disk/empty')
    path, _ = untar_hmdb51(tmp_path/'link', tmp_path/'archive')
    assert (
        path.is_symlink()
        and len(list((tmp_path / 'disk/empty').glob('*/*.avi'))) == 12
        and [f.name for f in (tmp_path / 'disk').iterdir()] == ['empty']
    )

# Folds

@pytest.mark.parametrize('fold,n_train,n_test', [(1,9537,3783), (2,9586,3734), (3,9624,3696)])
@pytest.mark.slow
def test_ucf101_folds_are_the_published_ones(fold, n_train, n_test):
    read = lambda kind: [
        l.split()[0]
        for l in real('splits', 'ucf101', f'{kind}list{fold:02}.txt').read_text().splitlines()
        if l.strip()
    ]
    train, test = read('train'), read('test')
    files = sorted(Path(f) for f in train+test)
    assert (len(files), len(train), len(test), len({f.parent for f in files})) == (13320, n_train, n_test, 101)
    for named in (files, [f.with_suffix('') for f in files], [f'/data/frames/{f}' for f in files]):
        a, b = ucf101_fold(named, fold)
        assert [str(files[i]) for i in a] == sorted(train, key=Path) and [str(files[i]) for i in b] == sorted(
            test, key=Path
        )
        assert len({files[i].parent for i in a}) == len({files[i].parent for i in b}) == 101

def test_a_fold_splits_loaders(tmp_path):
    clips = datasets.motion_clips(
        tmp_path / 'clips', n_classes=2, n_groups=9, clips_per_group=1, n_frames=4, size=(32, 32)
    )
    dls = ImageSeqDataLoaders.from_folder(
        clips, seq_len=2, size=16, bs=2, splitter=partial(ucf101_fold, fold=2), num_workers=0
    )
    assert {f.name[-10:-8] for f in dls.valid.items} == {'08', '09'} and len(dls.train_ds) == 14

@pytest.mark.parametrize('name', ['holiday.avi', 'v_A_g00_c01.avi', 'v_A_g26_c01.avi', 'v_A_g1_c01.avi', 'v_A_g01.avi', 'v_A_g01_c01_g02_c01x'])
def test_names_that_tell_no_group(name):
    with pytest.raises(ValueError, match=name): ucf101_fold(['A/v_A_g01_c01.avi', f'A/{name}'])

@pytest.mark.parametrize('fold', [0, 4, '1', None])
def test_folds_that_are_none(fold, tmp_path):
    for split in (ucf101_fold, partial(hmdb51_fold, splits=tmp_path)):
        with pytest.raises(ValueError, match=f'fold={fold}'): split(['A/v_A_g01_c01.avi'], fold=fold)

def test_split_files_that_are_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match='A_test_split1.txt'): hmdb51_fold(['A/x.avi'], tmp_path)
    for text in ('x.avi 3', 'x.avi', 'x.avi one', '1'):
        (tmp_path/'A_test_split1.txt').write_text(f'y.avi 1 \n\n{text}\n')
        with pytest.raises(ValueError, match='A_test_split1.txt, line 3'): hmdb51_fold(['A/x.avi'], tmp_path)

def test_hmdb51_names(tmp_path):
    "With dots, spaces and signs, alike in two classes, as videos and as folders of frames"
    odd = '#1 A.B_(x)_np1.5_2'
    (tmp_path/'A_test_split1.txt').write_text(f'{odd}.avi 1\n')
    (tmp_path/'B_test_split1.txt').write_text(f'{odd}.avi 2\n')
    for ext in ('.avi', '', '.mp4'): assert hmdb51_fold([f'A/{odd}{ext}', f'B/{odd}{ext}'], tmp_path) == ([0], [1])

def test_hmdb51_lacking_clips_are_told(tmp_path):
    (tmp_path/'A_test_split1.txt').write_text('x.avi 1\ny.avi 2\nz.avi 0\n\n')
    with pytest.warns(UserWarning, match='1 clips of the official fold are not among the files, e.g. A/y'):
        assert hmdb51_fold(['A/x.avi'], tmp_path) == ([0], [])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert hmdb51_fold(['A/y.avi', 'A/x.avi'], tmp_path) == (
            [1],
            [0],
        )  # z is in neither part, and B was not asked for
    with pytest.raises(ValueError, match='1 of 2 clips are not in the split files.*A/w.avi'):
        hmdb51_fold(['A/x.avi', 'A/w.avi'], tmp_path)
