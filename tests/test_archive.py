"Archives: hostile ones and broken ones are refused by name and leave nothing; programs are not believed; kills leave nothing that counts."

import base64, gzip, io, json, os, shutil, signal, stat, struct, subprocess, sys, tarfile, time, warnings, zipfile, zlib
from pathlib import Path

import pytest, rarfile

from conftest import real
from fastai_seq.video.archive import extract_archive, unrar

needs = lambda *tools: pytest.mark.skipif(
    not any(map(shutil.which, tools)), reason=f"none of {', '.join(tools)} is installed"
)
tree = lambda dest: {
    f.relative_to(dest).as_posix(): (
        os.readlink(f) if f.is_symlink() else f.read_bytes() if f.is_file() else None
    )
    for f in dest.rglob('*')
}

@pytest.fixture
def refused(tmp_path):
    "Checks that an archive is refused with all of `words`, and that nothing is left, in `dest` or beside it"
    def check(fname, *words, **kwargs):
        dest = tmp_path/'refused'/'dest'
        before = sorted(tmp_path.rglob('*'))
        with pytest.raises(ValueError) as e: extract_archive(fname, dest, **kwargs)
        for w in (str(fname), *words): assert w in str(e.value)
        dest.parent.rmdir() if dest.parent.exists() else None     # fails if anything is in it
        assert sorted(tmp_path.rglob('*')) == before
        return True
    return check

# ../shared/rar: every file of it is in one of these lists

line, long = b'hello\n', 2048
whole = {
    'rar3-comment-plain': {'file1.txt': 0, 'file2.txt': 0},
    'rar3-solid': {'stest1.txt': 2048, 'stest2.txt': 2048},
    'rar3-subdirs': (
        subdirs := {
            'dir2/file2.txt': 6,
            'with space/long fn.txt': 8,
            'üȵĩöḋè/file.txt': 5,
            'dir1/file1.txt': 6,
            'empty': None,
        }
    ),
    'rar5-crc': {'stest1.txt': 2048, 'stest2.txt': 2048},
    'rar5-dups': {f'stest{i}.txt': 2048 for i in range(1, 10)},
    'rar5-hlink': {f'stest{i}.txt': 2048 for i in range(1, 4)},
    'rar5-subdirs': subdirs,
    'rar5-vols.part1': {'bigfile.txt': 205000, 'smallfile.txt': 2050},
    'unicode': {'уииоотивл.txt': 2, '𝐀𝐁𝐁𝐂.txt': 2},
}
encrypted = {'rar3-comment-psw': {'file1.txt': 0, 'file2.txt': 0}, 'rar5-psw': {'stest1.txt': 2048, 'stest2.txt': 2048}}
hidden = {'rar3-comment-hpsw': {'file1.txt': 0, 'file2.txt': 0}, 'rar5-hpsw': {'stest1.txt': 2048, 'stest2.txt': 2048}}
hostile = {
    'rar5-evil-symlink-traversal': "'up'",
    'rar3-symlink-unix': "'random_link' is a link that leads out",
    'rar5-symlink-unix': "'random_link' is a link that leads out",
    'rar5-vols.part2': 'first volume',
    'rar5-vols.part3': 'first volume',
}

def holds(dest, sizes):
    "Are `sizes` what lies in `dest`, folders apart, all of them plain files of their own?"
    got = tree(dest)
    assert {n: None if b is None else len(b) for n,b in got.items() if n in sizes or b is not None} == sizes
    assert not [f for f in dest.rglob('*') if f.is_symlink()]
    return got

def test_every_real_rar_is_tested():
    assert {f.stem for f in real('rar').glob('*.rar')} == {*whole, *encrypted, *hidden, *hostile, 'rar5-solid'}

@needs('unrar', 'unar')
@pytest.mark.parametrize('name', whole)
def test_real_rar(name, tmp_path):
    fname = real('rar', f'{name}.rar')
    got = holds(unrar(fname, tmp_path/'dest'), whole[name])
    with rarfile.RarFile(fname) as rar:
        sums = {m.filename.rstrip('/').split('/')[-1]: m.CRC for m in rar.infolist() if m.CRC}
    for n,data in got.items():
        if n.split('/')[-1] in sums: assert zlib.crc32(data) == sums[n.split('/')[-1]]
    if name in ('rar5-dups', 'rar5-hlink'): assert len(set(got.values())) == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == ['.dest.archive.json', 'dest']

@pytest.mark.parametrize('name', ['rar3-subdirs', 'rar5-subdirs', 'rar5-vols.part1'])
def test_stored_rar_takes_no_program(name, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert holds(unrar(real('rar', f'{name}.rar'), tmp_path/'dest'), whole[name])

def test_rar5_solid(tmp_path, refused):
    "unar 1.10.1 cannot, and says so; bsdtar can"
    fname = real('rar', 'rar5-solid.rar')
    if any(map(shutil.which, ('unrar', 'bsdtar'))):
        holds(unrar(fname, tmp_path / 'dest'), {'stest1.txt': 2048, 'stest2.txt': 2048})
    else:
        assert refused(fname, 'unar' if shutil.which('unar') else 'apt install')

@needs('unrar', 'unar')
@pytest.mark.parametrize('name', encrypted)
def test_encrypted_rar(name, tmp_path, refused, monkeypatch):
    fname = real('rar', f'{name}.rar')
    assert holds(extract_archive(fname, tmp_path/'dest', password='password'), encrypted[name])
    assert refused(fname, 'encrypted; give its password')
    monkeypatch.setenv('PATH', '')      # RAR5 tells before a program is asked
    if name == 'rar5-psw': assert refused(fname, 'wrong password', password='passwort')

@needs('unrar', 'unar')
@pytest.mark.parametrize('name', hidden)
def test_rar_with_an_encrypted_list(name, tmp_path, refused):
    fname = real('rar', f'{name}.rar')
    assert refused(fname, 'its list is encrypted; give its password')
    if not rarfile._have_crypto:
        assert refused(fname, 'pip install cryptography', password='password')
        return
    assert refused(fname, 'wrong password', password='passwort')
    if name == 'rar5-hpsw' or shutil.which('unrar'):
        holds(extract_archive(fname, tmp_path / 'dest', password='password'), hidden[name])

@pytest.mark.parametrize('name', hostile)
def test_hostile_rar(name, refused): assert refused(real('rar', f'{name}.rar'), hostile[name])

def test_volumes_that_are_missing(tmp_path, refused):
    for i in (1, 2):
        shutil.copy(real('rar', f'rar5-vols.part{i}.rar'), tmp_path)
        assert refused(tmp_path/'rar5-vols.part1.rar', f'part{i+1}.rar')

@pytest.mark.parametrize('name', ['rar3-solid', 'rar5-crc', 'rar5-dups', 'rar3-subdirs', 'unicode'])
def test_rars_that_break_off(name, tmp_path, refused):
    "Whatever is cut off, it is an error that is named; or whole, when it was the end mark of an old .rar"
    data = real('rar', f'{name}.rar').read_bytes()
    for n in {7, 8, 20, len(data)//2, len(data)*3//4, len(data)-20, len(data)-9, len(data)-8, len(data)-1}:
        cut = tmp_path/'cut.rar'
        cut.write_bytes(data[:n])
        if name[:4] != 'rar5' and n >= len(data)-8: continue
        assert refused(cut)

def test_a_list_with_a_block_of_unknown_kind(tmp_path, refused):
    "rarfile ends its list there, without a word"
    data = real('rar', 'rar5-crc.rar').read_bytes()
    at = 8 + 4 + 1 + data[12]
    (tmp_path / 'x.rar').write_bytes(
        data[:at] + struct.pack('<I', zlib.crc32(b'\x02\x09\x00')) + b'\x02\x09\x00' + data[at:]
    )
    assert refused(tmp_path/'x.rar', 'in the middle of the list')

def test_a_limit_for_what_small_archives_ask_for(refused):
    assert refused(real('rar', 'rar5-dups.rar'), 'max_bytes=18431', max_bytes=9*2048-1)
    assert refused(real('rar', 'rar5-dups.rar'), 'max_members=8', max_members=8)

# Tars and zips that we make

def tar_of(path, members, mode='w'):
    "A tar at `path` of `(name, bytes or (type, linkname))`"
    with tarfile.open(path, mode) as t:
        for name,what in members:
            i = tarfile.TarInfo(name)
            if isinstance(what, bytes): i.size = len(what)
            else: i.type,i.linkname = what
            t.addfile(i, io.BytesIO(what) if isinstance(what, bytes) else None)
    return path

def zip_of(path, members, mode=0, system=3, **kwargs):
    "A zip at `path` of `(name, bytes)`, with unix mode `mode`"
    with zipfile.ZipFile(path, 'w', **kwargs) as z, warnings.catch_warnings():
        warnings.simplefilter('ignore')     # duplicate names
        for name,data in members:
            i = zipfile.ZipInfo(name)
            i.external_attr,i.create_system,i.compress_type = mode << 16, system, z.compression
            z.writestr(i, data)
    return path

def rar_of(path, members, method=0x30):
    "A RAR3 archive at `path` of `(name, bytes)`, stored; `method=0x33` says that it is compressed"
    def block(kind, flags, body, data=b''):
        head = struct.pack('<BHH', kind, flags, 7+len(body)) + body
        return struct.pack('<H', zlib.crc32(head) & 0xffff) + head + data
    out = b'Rar!\x1a\x07\x00' + block(0x73, 0, bytes(6))
    for name, data in members:
        out += block(
            0x74,
            0x8000,
            struct.pack(
                '<IIBIIBBHI',
                len(data),
                len(data),
                3,
                zlib.crc32(data),
                0x5A210000,
                29,
                method,
                len(name.encode()),
                0o100644,
            )
            + name.encode(),
            data,
        )
    path.write_bytes(out + block(0x7b, 0x4000, b''))
    return path

clips = [
    ('Set/A/1.avi', b'one' * 1000),
    ('Set/A/zwei Wörter.avi', b'two'),
    ('Set/空/🎬.avi', b''),
    ('Set/B/4.avi', bytes(300_000)),
]
content = {n.removeprefix('Set/'): b for n,b in clips} | {d: None for d in ('A', 'B', '空')}
forms = {'rar': rar_of, 'zip': zip_of, 'tar': tar_of}
every = pytest.mark.parametrize('form', forms)

@pytest.mark.parametrize('name', ['x.tar', 'x.tar.gz', 'x.TGZ', 'x.tar.xz', 'x.txz', 'x.tar.bz2', 'x.zip', 'x.rar'])
def test_every_format_gives_the_same_folder(name, tmp_path):
    mode = next((m for s,m in (('gz', 'w:gz'), ('xz', 'w:xz'), ('bz2', 'w:bz2')) if name.lower().endswith(s)), 'w')
    fname = tar_of(tmp_path/name, clips, mode) if name[2] in 'tT' else forms[name[2:]](tmp_path/name, clips)
    dest = extract_archive(fname, tmp_path/'dest')
    assert tree(dest) == content
    (dest/'mine').touch()
    assert extract_archive(str(fname), dest) == dest and (dest/'mine').exists()
    fname.unlink()
    assert extract_archive(fname, dest) == dest
    assert sorted(f.name for f in tmp_path.iterdir()) == ['.dest.archive.json', 'dest']
    with pytest.raises(FileNotFoundError): extract_archive(fname, tmp_path/'other')

@pytest.mark.parametrize('compression', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_zip(compression, tmp_path):
    assert tree(extract_archive(zip_of(tmp_path/'x.zip', clips, compression=compression), tmp_path/'dest')) == content

def test_zstd(tmp_path, refused):
    fname = tmp_path/'x.tar.zst'
    if sys.version_info >= (3, 14):
        assert tree(extract_archive(tar_of(fname, clips, 'w:zst'), tmp_path / 'dest')) == content
    else:
        fname.write_bytes(b'\x28\xb5\x2f\xfd')
        assert refused(fname, 'Python 3.14')

@every
@pytest.mark.parametrize('name', ['../x', 'a/../../x', '/etc/x', '//x', 'C:/x', 'c:x', 'a/C:/x', '..\\x', '\\x', 'a/..'])
def test_members_outside(form, name, tmp_path, refused):
    assert refused(forms[form](tmp_path/f'x.{form}', [('ok', b'ok'), (name, b'x')]), 'outside the folder')


def test_names_too_long_for_a_disk(tmp_path, refused):
    assert refused(
        tar_of(tmp_path / 'x.tar', [('ok', b'ok'), ('ü' * 128, b'x')]), 'name that no file can have'
    )


@every
def test_members_that_clash(form, tmp_path, refused):
    make = lambda *names: forms[form](tmp_path/f'x.{form}', [(n, b'x') for n in names])
    assert refused(make('a', 'b', 'a'), "two members have the name 'a'")
    assert refused(make('a', './a'), "two members have the name './a'")
    assert refused(make('a/b', 'a'), "through 'a', a file")
    assert refused(make('a', 'a/b'), "through 'a', a file")

link, hard = (lambda to: (tarfile.SYMTYPE, to)), (lambda to: (tarfile.LNKTYPE, to))
@pytest.mark.parametrize('members', [
    [('l', link('..')), ('l/x', b'x')], [('l', link('/etc'))], [('l', link('a/../../x'))], [('l', link('C:/x'))], [('l', link('..\\x'))],
    [('l', link('l'))], [('l', link('m')), ('m', link('l'))],
    [('d', link('.')), ('d/x', b'x')],                                         # inside, but written through
    [('d/x', b'x'), ('d', link('e'))],                                         # the same, in the other order
    [('a/b/c', link('../..')), ('l', link('a/b/c/../x'))],                     # inside as text, outside on disk
    [('a', link('b')), ('b', link('c/..')), ('c', link('d')), ('d', link('..'))],
    [('Set/a', b'x'), ('Set/l', link('../Set/a'))],                            # Set gets another name
    [('l', link('..')), ('h', hard('l'))], [('h', hard('../x'))], [('h', hard('/etc/passwd'))], [('h', hard('none'))], [('h', hard('h'))],
    [('a', b'a'), ('h', hard('a/'+'../a'))]], ids=str)
def test_links_that_lead_out(members, tmp_path, refused):
    assert refused(tar_of(tmp_path/'x.tar', [('ok', b'ok')]*(members[0][0][:3] != 'Set') + members), 'member')

def test_links_that_stay_inside(tmp_path):
    dest = extract_archive(
        tar_of(
            tmp_path / 'x.tar',
            [
                ('Set/a/1', b'one'),
                ('Set/l', link('a')),
                ('Set/a/m', link('../l/1')),
                ('Set/gone', link('later')),
                ('Set/h', hard('Set/a/1')),
            ],
        ),
        tmp_path / 'dest',
    )
    assert tree(dest) == {'a': None, 'a/1': b'one', 'l': 'a', 'a/m': '../l/1', 'gone': 'later', 'h': b'one'}
    assert (dest/'a/m').read_bytes() == b'one' and (dest/'h').stat().st_ino != (dest/'a/1').stat().st_ino
    zipped = zip_of(tmp_path/'x.zip', [('l', b'a/b')], mode=stat.S_IFLNK | 0o777)
    assert tree(extract_archive(zipped, tmp_path/'zip')) == {'l': 'a/b'}

def test_links_in_zips_that_lead_out(tmp_path, refused):
    for to in (b'..', b'/etc', b'a/../../x', b'x' * 5000):
        assert refused(zip_of(tmp_path / 'x.zip', [('l', to)], mode=stat.S_IFLNK | 0o777), "'l' is a link")


@pytest.mark.parametrize('kind', [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b'Z'])
def test_devices_in_tars(kind, tmp_path, refused):
    assert refused(tar_of(tmp_path / 'x.tar', [('ok', b'ok'), ('dev', (kind, ''))]), "'dev' is")


@pytest.mark.parametrize('fmt', [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_devices_in_zips(fmt, tmp_path, refused):
    assert refused(zip_of(tmp_path / 'x.zip', [('dev', b'')], mode=fmt), "'dev' is a ")


def test_modes_of_strangers_are_not_taken(tmp_path):
    dest = extract_archive(zip_of(tmp_path/'x.zip', [('a', b'x')], mode=stat.S_IFREG | 0o6777), tmp_path/'dest')
    assert not (dest/'a').stat().st_mode & 0o6111

# `a` and `b` of three bytes each; by bsdtar 3.6.2, password "password"
zipcrypt = (
    'UEsDBBQACQAIAAAAIVAAAAAAAAAAAAMAAAABACAAYVVUDQAHAOELXgDhC15+WgNrdXgLAAEEAAAAAAQAAAAA282nONP6lEvNxoDpvDbL88BQSwcI8YZsehEAAAADAAAAUE'
    'sDBBQACQAIAAAAIVAAAAAAAAAAAAMAAAABACAAYlVUDQAHAOELXgDhC15+WgNrdXgLAAEEAAAAAAQAAAAA5PduTfJKrV7eggzTsVsnlwlQSwcIZorKEREAAAADAAAAUEsB'
    'AhQDFAAJAAgAAAAhUPGGbHoRAAAAAwAAAAEAIAAAAAAAAAAAAKSBAAAAAGFVVA0ABwDhC14A4QtefloDa3V4CwABBAAAAAAEAAAAAFBLAQIUAxQACQAIAAAAIVBmisoREQ'
    'AAAAMAAAABACAAAAAAAAAAAACkgWAAAABiVVQNAAcA4QteAOELXn5aA2t1eAsAAQQAAAAABAAAAABQSwUGAAAAAAIAAgCeAAAAwAAAAAAA'
)
aes256 = (
    'UEsDBBQACQBjAAAAIVAAAAAAAAAAAAMAAAABACsAYVVUDQAHAOELXgDhC15+WgNrdXgLAAEEAAAAAAQAAAAAAZkHAAIAQUUDCADJfCThuUhKNMRuCCNZUV/Rk32B8QHrhf'
    'KQZjVrwUvUXNdQSwcIAAAAACEAAAADAAAAUEsDBBQACQBjAAAAIVAAAAAAAAAAAAMAAAABACsAYlVUDQAHAOELXgDhC15+WgNrdXgLAAEEAAAAAAQAAAAAAZkHAAIAQUUD'
    'CADst17IjUjBXItISNLEscx4URWz0ENQC9TaB92FEDYGVn1QSwcIAAAAACEAAAADAAAAUEsBAhQDFAAJAGMAAAAhUAAAAAAhAAAAAwAAAAEAKwAAAAAAAAAAAKSBAAAAAG'
    'FVVA0ABwDhC14A4QtefloDa3V4CwABBAAAAAAEAAAAAAGZBwACAEFFAwgAUEsBAhQDFAAJAGMAAAAhUAAAAAAhAAAAAwAAAAEAKwAAAAAAAAAAAKSBewAAAGJVVA0ABwDh'
    'C14A4QtefloDa3V4CwABBAAAAAAEAAAAAAGZBwACAEFFAwgAUEsFBgAAAAACAAIAtAAAAPYAAAAAAA=='
)

@pytest.mark.parametrize('name,data', [('zipcrypt.zip', zipcrypt), pytest.param('aes256.zip', aes256, marks=needs('7z', '7zz', 'bsdtar'))])
def test_encrypted_zip(name, data, tmp_path, refused, monkeypatch):
    fname = tmp_path/name
    fname.write_bytes(base64.b64decode(data))
    assert tree(extract_archive(fname, tmp_path/'dest', password='password')) == {'a': b'one', 'b': b'two'}
    assert refused(fname, "'a' is encrypted; give its password")
    with monkeypatch.context() as m:
        m.setenv('PATH', '')
        for password in 'abc': assert refused(fname, 'wrong password', password=password)
    data = bytearray(fname.read_bytes())
    data[data.index(b'PK\7\x08') - 3] ^= 1
    fname.write_bytes(data)
    assert refused(fname, "zip", password='password')

# Bombs

@every
def test_limits(form, tmp_path, refused):
    fname = forms[form](tmp_path/f'x.{form}', clips)
    n = sum(len(b) for _,b in clips)
    assert refused(fname, f'max_bytes={n-1}', max_bytes=n-1)
    assert refused(fname, 'max_members=3', max_members=3)
    extract_archive(fname, tmp_path/'dest', max_bytes=n, max_members=4)

@pytest.mark.slow
def test_zip_bomb(tmp_path, refused):
    bomb = zip_of(tmp_path/'x.zip', [(f'{i}', bytes(1<<26)) for i in range(17)], compression=zipfile.ZIP_DEFLATED)
    assert refused(bomb, 'max_bytes=1073741824')

@pytest.mark.parametrize('size', [1<<40, 1<<33])
def test_a_tar_that_claims_terabytes(size, tmp_path, refused):
    head = tarfile.TarInfo('big')
    head.size = size
    (tmp_path/'x.tar').write_bytes(head.tobuf() + bytes(1024))
    assert refused(tmp_path/'x.tar', 'max_bytes')

def test_copies_count(tmp_path, refused):
    "Hard links become copies: a thousand of a megabyte are a gigabyte"
    assert refused(
        tar_of(
            tmp_path / 'x.tar.gz',
            [('a', bytes(1 << 20)), *((f'{i}', hard('a')) for i in range(1024))],
            'w:gz',
        ),
        'max_bytes',
    )

def test_a_head_as_large_as_memory(tmp_path, refused):
    head = tarfile.TarInfo('././@PaxHeader')
    head.type,head.size = tarfile.XHDTYPE,1<<25
    with gzip.open(tmp_path/'x.tar.gz', 'wb', 1) as f: f.write(head.tobuf() + bytes(1<<25) + bytes(1024))
    assert refused(tmp_path/'x.tar.gz', 'head takes')

def test_zeros_without_end(tmp_path, refused):
    with gzip.open(tar_of(tmp_path/'x.tar.gz', clips, 'w:gz'), 'ab', 1) as f: f.write(bytes(65<<20))
    assert refused(tmp_path/'x.tar.gz', '64 MB follow')

@pytest.mark.parametrize('form', ['zip', 'tar'])
def test_not_enough_disk(form, tmp_path, refused):
    free = shutil.disk_usage(tmp_path).free
    if form == 'tar':
        head = tarfile.TarInfo('big')
        head.size = 2*free
        with open(tmp_path/'x.tar', 'wb') as f:
            f.write(head.tobuf())
            f.seek(2*free, 1)
            f.write(bytes(10240)) # a hole, no bytes on disk
        fname = tmp_path/'x.tar'
    else:
        fname = zip_of(tmp_path/'x.zip', [(str(i), b'x') for i in range(2*free//(1<<32)+1)])
        data = fname.read_bytes()
        fname.write_bytes(data.replace(struct.pack('<II', 1, 1), struct.pack('<II', 1, 0xfffffffe)))
    assert refused(fname, 'make room', max_bytes=8*free)

# Broken ones

@pytest.mark.parametrize('name', ['x.tar', 'x.tar.gz', 'x.tar.xz', 'x.tar.bz2', 'x.zip', 'x.rar'])
def test_what_breaks_off_is_refused(name, tmp_path, refused):
    fname = tmp_path/name
    if name[2:] in forms:forms[name[2:]](fname, clips)
    else: tar_of(fname, clips, f'w:{name[6:]}')
    data = fname.read_bytes()
    content_ends = (
        4 * 512 + 3 * 1024 + 300_032 if name == 'x.tar' else len(data) - (7 if name == 'x.rar' else 0)
    )  # then zeros; old .rar files have no end mark
    for n in (0, 1, 100, 512, 700, 512+3072, content_ends//2, content_ends*3//4, content_ends-20, content_ends-1):
        fname.write_bytes(data[:min(n, content_ends-1)])
        assert refused(fname, 'breaks off' if name == 'x.rar' and n > 10_000 else '')

@every
@pytest.mark.slow
def test_a_flipped_bit_is_seen_or_harmless(form, tmp_path):
    "Any byte of the archive wrong: refused as a ValueError that names it, or extracted, with nothing left beside"
    small = [('Set/a', b'one'), ('Set/b', b'two')]
    data = forms[form](tmp_path/f'x.{form}', small).read_bytes()
    fname = tmp_path/f'y.{form}'
    for at in range(0, min(len(data), 1600), 7):
        fname.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at+1:])
        try: extract_archive(fname, tmp_path/'out/dest')
        except ValueError as e: assert str(fname) in str(e) and not list((tmp_path/'out').glob('*'))
        else: assert form == 'tar' or set(tree(tmp_path/'out/dest').values()) <= {b'one', b'two', None}
        shutil.rmtree(tmp_path/'out', ignore_errors=True)

def test_a_wrong_checksum_leaves_nothing(tmp_path, refused):
    for form in ('zip', 'rar'):
        fname = forms[form](tmp_path/f'x.{form}', [('a', b'before'), ('b', b'one')])
        fname.write_bytes(fname.read_bytes().replace(b'one', b'eno'))
        assert refused(fname, "b")

@pytest.mark.parametrize('name', ['x.rar', 'x.zip', 'x.tar', 'x.tar.gz', 'x.tar.xz', 'x.tar.bz2'])
def test_no_archive_at_all(name, tmp_path, refused):
    for data in (b'', b'text', bytes(3000), os.urandom(3000)):
        (tmp_path/name).write_bytes(data)
        assert refused(tmp_path/name)

def test_names_are_checked_first(tmp_path):
    with pytest.raises(ValueError, match='x.7z: expected an archive that ends in one of .rar, .zip, .tar'):
        extract_archive(tmp_path / 'x.7z')
    with pytest.raises(ValueError, match='x.zip: expected a .rar'): unrar(tmp_path/'x.zip')
    (tmp_path/'dest').mkdir()
    (tmp_path/'dest/mine').touch()
    with pytest.raises(ValueError, match='holds other things'):
        extract_archive(zip_of(tmp_path / 'x.zip', clips), tmp_path / 'dest')

# Programs: hostile, broken and slow ones, by the name of real ones

one = [('Set/a', b'one'*100), ('Set/b', b'two'*100)]
right = "".join(f"(out/{n!r}).parent.mkdir(exist_ok=True); (out/{n!r}).write_bytes({b!r})\n" for n,b in one)

@pytest.fixture
def program(tmp_path, monkeypatch):
    "Makes a program `name` that runs Python `code`, with the folder `out`; there are no others"
    (tmp_path/'bin').mkdir()
    monkeypatch.setenv('PATH', str(tmp_path/'bin'))
    def make(name, code):
        path = tmp_path/'bin'/name
        path.write_text(
            f"#!{sys.executable}\nimport os, sys, time\nfrom pathlib import Path\nout = next(Path(a) for a in"
            f" sys.argv if os.path.isdir(a))\n{code}"
        )
        path.chmod(0o755)
    return make

def test_without_a_program(tmp_path, refused, program):
    assert refused(rar_of(tmp_path/'x.rar', one, 0x33), 'no program', 'apt install', 'brew install', 'Windows')

@pytest.mark.parametrize('code,says', [
    ("", "'Set/a' is missing"),
    (right + "(out/'Set/b').unlink()", "'Set/b' is missing"),
    (right + "(out/'Set/b').write_bytes(b'2')", "'Set/b' has 1 bytes, and the list says 300"),
    (right + "(out/'Set/b').write_bytes(b'2'*300)", "'Set/b' has the wrong checksum"),
    (right + "(out/'Set/b').unlink(); (out/'Set/b').symlink_to('a')", "'Set/b' has"),
    (right + "(out/'Set').rename(out/'../S'); (out/'Set').symlink_to('../S')", "'Set' (link), which is not in the list"),
    (right + "(out/'Set/c').touch()", "stopped, having written 4 files and folders of 600 bytes"),
    (right + "(out/'Set/b').unlink(); (out/'Set/d').mkdir()", "'Set/d' (folder), which is not in the list"),
    (right + "(out/'Set/c').write_bytes(bytes(1000)); time.sleep(60)", "stopped, having written 4 files and folders of 1600 bytes"),
    ("f = (out/'x').open('wb')\nwhile True: f.write(bytes(1000))", "stopped, having written"),
    ("i = 0\nwhile True: i += 1; (out/str(i)).touch()", "stopped, having written"),
    ("while True: print('x'*1000)", "stopped, having written more than 1 MB of messages"),
    ("time.sleep(60)", "stopped, having written nothing for timeout=1 seconds"),
    ("sys.exit('I am broken')", "'Set/a' is missing (I am broken)")])
@pytest.mark.slow
def test_a_program_is_not_believed(code, says, tmp_path, refused, program):
    program('unrar', code)
    began = time.monotonic()
    assert refused(rar_of(tmp_path/'x.rar', one, 0x33), 'unrar: ', says, 'Get the archive again', timeout=1)
    assert time.monotonic() - began < 15

def test_no_program_is_run_to_read_the_list(tmp_path, refused, program):
    "rarfile alone would ask one for the comment of this archive"
    program('unrar', f"Path({str(tmp_path/'ran')!r}).touch()")
    assert refused(real('rar', 'rar3-comment-plain.rar'), 'max_members=1', max_members=1)

def test_programs_may_write_copies_in_full(tmp_path, program):
    fname = real('rar', 'rar5-hlink.rar')
    if not shutil.which('bsdtar', path=os.defpath): pytest.skip("bsdtar is not installed")
    (tmp_path/'bin/bsdtar').symlink_to(shutil.which('bsdtar', path=os.defpath))
    assert holds(unrar(fname, tmp_path/'dest'), whole['rar5-hlink'])

def test_the_next_program_has_a_go(tmp_path, program):
    program('unrar', right + "(out/'Set/b').write_bytes(b'2'*300)")
    program('unar', "sys.exit(1)")
    program(
        'bsdtar', right + "(out/'Set').chmod(0o500); (out/'Set/b').chmod(0); sys.exit(3)"
    )  # all right, and it says that it is not
    dest = unrar(rar_of(tmp_path/'x.rar', one, 0x33), tmp_path/'dest')
    assert tree(dest) == {'a': b'one' * 100, 'b': b'two' * 100} and sorted(
        f.name for f in tmp_path.iterdir()
    ) == ['.dest.archive.json', 'bin', 'dest', 'x.rar']
    assert dest.stat().st_mode & 0o777 == 0o755 and (dest/'b').stat().st_mode & 0o777 == 0o644

def test_the_password_goes_to_the_program(tmp_path, program):
    data = rar_of(tmp_path/'x.rar', one, 0x33).read_bytes()
    name = one[1][0].encode()
    at = data.index(name) - 32
    head = bytearray(data[at:at+32+len(name)])
    head[3] |= 4
    head[:2] = struct.pack('<H', zlib.crc32(head[2:]) & 0xffff)
    (tmp_path/'x.rar').write_bytes(data[:at] + head + data[at+len(head):])
    program('unrar', right + "assert '-pgeheim' in sys.argv")
    assert len(tree(extract_archive(tmp_path/'x.rar', tmp_path/'dest', password='geheim'))) == 2
    with pytest.raises(ValueError, match="'Set/b' is encrypted; give its password"):
        unrar(tmp_path / 'x.rar', tmp_path / 'other')
    program('unrar', "")
    with pytest.raises(ValueError, match="wrong password, or no program"):
        unrar(tmp_path / 'x.rar', tmp_path / 'other', password='geheim')

# Kills

def start(*args):
    code = "import sys; from fastai_seq.video.archive import *; extract_archive(sys.argv[1], sys.argv[2])"
    return subprocess.Popen(
        [sys.executable, '-c', code, *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a background job ignores it

def wait(run, until):
    while run.poll() is None and not until(): time.sleep(.001)

@every
@pytest.mark.slow
def test_killed_in_the_middle(form, tmp_path):
    "What a killed run leaves is hidden and is not taken for finished; starting again completes it"
    many = [(f'Set/{i}', bytes([i])*200_000) for i in range(200)]
    fname,folder = forms[form](tmp_path/f'x.{form}', many), tmp_path/'data'
    folder.mkdir()
    for n in (1, 50):
        run = start(fname, folder/'dest')
        wait(run, lambda: sum(f.is_file() for f in folder.rglob('*')) >= n)
        run.kill()
        run.wait()
        assert not (folder/'dest').exists() and all(f.name[0] == '.' for f in folder.iterdir())
    assert tree(extract_archive(fname, folder/'dest')) == {n[4:]: b for n,b in many}

@pytest.mark.slow
def test_ctrl_c_ends_the_program_too(tmp_path, program):
    program('unar', f"Path({str(tmp_path/'pid')!r}).write_text(str(os.getpid())+' '); time.sleep(60)")
    run = start(rar_of(tmp_path/'x.rar', one, 0x33), tmp_path/'data/dest')
    wait(run, lambda: (tmp_path/'pid').exists() and (tmp_path/'pid').read_text().endswith(' '))
    run.send_signal(signal.SIGINT)
    run.wait(20)
    with pytest.raises(ProcessLookupError): os.kill(int((tmp_path/'pid').read_text()), 0)
    assert list((tmp_path/'data').iterdir()) == []

@pytest.mark.skipif(sys.platform != 'linux', reason="the system's own limit is set on Linux")
@pytest.mark.slow
def test_a_program_that_is_not_watched_any_more_does_not_fill_the_disk(tmp_path, program):
    "The watcher is killed while the program waits; then it writes, 2 MB at most"
    program('unar', f"""go, pid = Path({str(tmp_path/'go')!r}), Path({str(tmp_path/'pid')!r})
pid.write_text('.')
while not go.exists(): time.sleep(.001)
with (out/'big').open('wb') as f:
    for i in range(2000): f.write(bytes(1000))
""")
    run = start(rar_of(tmp_path/'x.rar', one, 0x33), tmp_path/'data/dest')
    wait(run, lambda: (tmp_path/'pid').exists())
    run.kill()
    run.wait()
    (tmp_path/'go').touch()
    big = lambda: next(((tmp_path/'data').rglob('big')), None)
    while not big() or big().stat().st_size < 1<<20: time.sleep(.001)
    assert big().stat().st_size <= (1<<20) + 1

def test_another_archive_of_the_same_name_does_not_pass(tmp_path):
    "What is in the folder came from one archive; another is named, the same one is done"
    for d, text in (('a', 'one'), ('b', 'other')):
        (tmp_path/d).mkdir()
        with zipfile.ZipFile(tmp_path/d/'UCF.zip', 'w') as z: z.writestr('UCF/clip.avi', text)
    dest = tmp_path/'data'
    assert extract_archive(tmp_path/'a/UCF.zip', dest) == extract_archive(tmp_path/'a/UCF.zip', dest)
    with pytest.raises(ValueError, match='another archive, UCF.zip'): extract_archive(tmp_path/'b/UCF.zip', dest)
    (tmp_path/'a/UCF.zip').unlink()
    assert (extract_archive(tmp_path/'a/UCF.zip', dest)/'clip.avi').read_text() == 'one'

def identity(fname): return dict(name=fname.name, bytes=fname.stat().st_size, mtime_ns=fname.stat().st_mtime_ns)

@pytest.fixture
def two(tmp_path):
    "Two archives of one name, with the same files in them, of other content"
    for d in 'ab':
        (tmp_path/d).mkdir()
        tar_of(tmp_path/d/'UCF.tar', [('UCF/Jump/clip.avi', d.encode()), ('UCF/Run/clip.avi', d.encode())])
    return tmp_path/'a/UCF.tar', tmp_path/'b/UCF.tar'

def test_the_folder_holds_what_the_archive_holds(two, tmp_path, monkeypatch):
    "Which archive it was is noted beside it, wherever `dest` leads"
    (tmp_path/'far').mkdir()
    (tmp_path/'here').mkdir()
    (tmp_path/'link').symlink_to(tmp_path/'far')
    for dest in ('.', tmp_path/'link', tmp_path/'plain'):
        monkeypatch.chdir(tmp_path/'here')
        extract_archive(two[0], dest)
        monkeypatch.chdir(tmp_path/'here')          # which is another folder now
        assert sorted(tree(Path(dest))) == ['Jump', 'Jump/clip.avi', 'Run', 'Run/clip.avi']
        assert extract_archive(two[0], dest) == Path(dest)
        with pytest.raises(ValueError, match='another archive, UCF.tar'): extract_archive(two[1], dest)
    assert {f.name for f in tmp_path.glob('.*')} == {
        '.far.archive.json',
        '.here.archive.json',
        '.plain.archive.json',
    } and (tmp_path / 'link').is_symlink()

def test_members_of_the_old_notes_name_are_content(two, tmp_path):
    "A file comes out as it is, even one that looks like a note; a link leads nothing to where it points"
    looks = json.dumps(dict(name='other.rar', bytes=1, mtime_ns=2)).encode()
    fname = tar_of(tmp_path/'x.tar', [('Set/.archive.json', looks), ('Set/clip.avi', b'clip')])
    for _ in range(2):
        assert tree(extract_archive(fname, tmp_path / 'dest')) == {
            '.archive.json': looks,
            'clip.avi': b'clip',
        }
    (tmp_path/'.dest.archive.json').unlink()                        # nor is it taken for one when ours is lost
    assert tree(extract_archive(fname, tmp_path/'dest'))['.archive.json'] == looks
    fname = tar_of(tmp_path/'y.tar', [('Set/clip.avi', looks), ('Set/.archive.json', (tarfile.SYMTYPE, 'clip.avi'))])
    for _ in range(2):
        assert tree(extract_archive(fname, tmp_path / 'linked')) == {
            'clip.avi': looks,
            '.archive.json': 'clip.avi',
        }
    (tmp_path/'linked/Jump').mkdir()
    (tmp_path/'.linked.archive.json').unlink()
    assert extract_archive(two[0], tmp_path/'linked') == tmp_path/'linked'

def test_a_note_whose_folder_is_gone_refuses_nothing(two, tmp_path):
    dest = extract_archive(two[0], tmp_path/'dest')
    shutil.rmtree(dest)
    assert tree(extract_archive(two[1], dest))['Run/clip.avi'] == b'b'      # and is that archive's now
    with pytest.raises(ValueError, match='another archive'): extract_archive(two[0], dest)
    shutil.rmtree(dest)
    for name in ('Jump', 'Run'): (dest/name).mkdir(parents=True)
    assert extract_archive(two[0], dest) == dest  # by other means, as if there had been no note
    shutil.rmtree(dest)
    for damage in ('', '{"name": "UCF', '[]', '{"name": 1, "bytes": 2, "mtime_ns": 3, "holds": 4}'):
        (tmp_path/'.dest.archive.json').write_text(damage)
        for _ in range(2): assert extract_archive(two[1], dest) == dest
        shutil.rmtree(dest)

def test_folders_that_version_0_1_0_extracted(two, tmp_path):
    dest = tmp_path/'dest'
    for name in ('Jump', 'Run'): (dest/name).mkdir(parents=True)
    (dest/'.archive.json').write_text(json.dumps(identity(two[0])))
    assert extract_archive(two[0], dest) == dest and not (tmp_path/'.dest.archive.json').exists()
    with pytest.raises(ValueError, match='another archive, UCF.tar'): extract_archive(two[1], dest)
    (dest/'.archive.json').rename(tmp_path/'elsewhere')
    (dest/'.archive.json').symlink_to(tmp_path/'elsewhere')
    assert extract_archive(two[1], dest) == dest                            # a link is no note of ours
