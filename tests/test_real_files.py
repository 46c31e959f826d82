"Files as people have them: deep, turned and broken pictures, names with colons and backslashes, tables of odd cells, what systems leave behind."
import shutil

import numpy as np, pandas as pd, pytest
from PIL import Image, ImageOps

from fastai_seq.data.dataloaders import ImageSeqDataLoaders
from fastai_seq.data.find import get_instances
from fastai_seq.video.files import VideoError, get_videos, write_video
from fastai_seq.video.read import n_frames, read_frames, video_info

@pytest.fixture
def folder(tmp_path):
    path = tmp_path/'clip'
    path.mkdir()
    return path

def corners(side=64):
    "A picture that looks different from every side"
    a = np.zeros((side//2, side, 3), np.uint8)
    a[:side//4, :side//2], a[side//4:, side//2:] = (250, 20, 20), (20, 20, 250)
    return Image.fromarray(a)

@pytest.mark.parametrize('mode,values', [('I;16', np.linspace(0, 65535, 64*64)), ('I', np.linspace(0, 65535, 64*64))])
@pytest.mark.parametrize('end', ['png', 'tif'])
def test_of_sixteen_bits_the_upper_eight_are_seen(folder, mode, values, end):
    values = values.reshape(64, 64).astype(np.uint16 if mode == 'I;16' else np.int32)
    if mode == 'I' and end == 'png': pytest.skip('PIL writes no 32 bits as PNG')
    Image.fromarray(values).save(folder/f'0.{end}')
    assert np.array_equal(read_frames(folder, [0])[0][..., 0], values >> 8)

@pytest.mark.parametrize('values', [np.random.rand(8, 8).astype(np.float32), np.full((8, 8), 10**6, np.int32)])
def test_numbers_without_a_white_are_refused(folder, values):
    Image.fromarray(values).save(folder/'0.tif')
    with pytest.raises(VideoError, match='8 or 16 bits'): read_frames(folder, [0])

@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('end', ['jpg', 'png'])
def test_turned_photos_stand_upright(folder, orientation, end):
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners().save(folder/f'0.{end}', exif=exif, quality=95)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(folder/f'0.{end}')).convert('RGB'))
    seen, info = read_frames(folder, [0])[0], video_info(folder)
    assert seen.shape == upright.shape == (info.height, info.width, 3)
    assert np.abs(seen.astype(int) - upright).max() < 12

def broken_png(path): path.write_bytes(path.read_bytes()[:60] + b'\x8d\x03\x98\xa6'*20)
def cut_png(path): path.write_bytes(path.read_bytes()[:70])
def bomb(path): Image.new('1', (20000, 10000)).save(path)
def text(path): path.write_text('no picture')
def nothing(path): path.write_bytes(b'')
@pytest.mark.parametrize('breaks', [broken_png, cut_png, bomb, text, nothing])
def test_broken_pictures_are_named(folder, breaks):
    for i in range(3): corners().save(folder/f'{i}.png')
    breaks(folder/'1.png')
    with pytest.raises(VideoError, match=r'1\.png'): read_frames(folder, [0, 1, 2])

@pytest.mark.parametrize('name', ['2021-03-04T10:30:15.mp4', 'cam1:left.mp4', 'file:x.mp4'])
def test_colons_are_no_addresses(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video('plain.mp4', [np.zeros((32, 32, 3), np.uint8)]*5, fps=5)
    shutil.move('plain.mp4', f'./{name}')
    assert n_frames(name) == 5 and len(read_frames(name, [0, 4])) == 2

def test_what_systems_leave_is_no_clip(tmp_path, clips):
    shutil.copytree(clips, tmp_path/'c')
    expected = get_instances(tmp_path/'c')
    cls = expected[0].parent
    for litter in ('__MACOSX/Move/._a.avi', f'{cls.name}/._a.avi', f'{cls.name}/Thumbs.db', f'{cls.name}/__MACOSX/b.avi', 'desktop.ini'):
        (tmp_path/'c'/litter).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/'c'/litter).write_bytes(b'')
    assert get_instances(tmp_path/'c') == expected == get_videos(tmp_path/'c')

@pytest.fixture
def videos(tmp_path):
    "Four videos whose names are numbers"
    for i in range(4): write_video(tmp_path/f'0000{i}.avi', [np.full((16, 16, 3), 50*i, np.uint8)]*4)
    return tmp_path

def load(path, rows, header='name,label', **kwargs):
    (path/'labels.csv').write_text('\n'.join([header, *rows]) + '\n')
    return ImageSeqDataLoaders.from_csv(path, splitter=[[0, 1], [2, 3]], seq_len=2, size=16, bs=2, num_workers=0, **kwargs)

def test_names_of_digits_keep_their_zeros(videos):
    for i in range(4): shutil.copytree(videos, videos/f'0{i}', ignore=lambda *_: {'00', '01', '02', '03'}) if i == 0 else (videos/f'0{i}').mkdir()
    for i in range(4):
        for k in range(3): Image.new('RGB', (16, 16)).save(videos/f'0{i}/{k}.png')
        for f in (videos/f'0{i}').glob('*.avi'): f.unlink()
    dls = load(videos, [f'0{i},{"ab"[i%2]}' for i in range(4)])
    assert [f.name for f in dls.train.items] == ['00', '01']

@pytest.mark.parametrize('labels,vocab', [(('001', '01', '001', '01'), ['001', '01']), (('NA', 'None', 'NA', 'None'), ['NA', 'None']),
                                          (('1', '2', '1', '2'), [1, 2])])
def test_labels_are_what_the_cells_say(videos, labels, vocab):
    dls = load(videos, [f'0000{i}.avi,{l}' for i, l in enumerate(labels)])
    assert list(dls.vocab) == vocab

def test_numbers_stay_numbers(videos):
    dls = load(videos, [f'0000{i}.avi,{i + .5}' for i in range(4)])
    assert dls.one_batch()[1].is_floating_point()

def test_an_empty_cell_is_no_label(videos):
    dls = load(videos, ['00000.avi,a b', '00001.avi,', '00002.avi,b', '00003.avi,a'], label_delim=' ')
    assert sorted(y.sum().item() for y in dls.train.one_batch()[1]) == [0, 2]
    with pytest.raises(ValueError, match='empty in row 1'): load(videos, ['00000.avi,a', '00001.avi,', '00002.avi,a', '00003.avi,a'])

def test_backslashes_of_windows(videos):
    (videos/'sub').mkdir()
    for i in range(4): shutil.move(videos/f'0000{i}.avi', videos/'sub')
    dls = load(videos, [f'sub\\0000{i}.avi,{"ab"[i%2]}' for i in range(4)])
    assert all(f.exists() for f in dls.train.items)
