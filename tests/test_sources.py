"""Arguments → images: every kind of source, in order, by content and not by name."""

import glob
import gzip
import io
import os
import tarfile
import threading
import zipfile

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve.archives import Unreadable
from serve.sources import Options, Url, expand, name_of, total
from zoo.errors import BadInput
from zoo.image import LARGEST, Named


def png(value=0):
    return cv2.imencode(".png", np.full((5, 5), value % 256, np.uint8))[1].tobytes()


ALLOWED = Options(allow_url=True)


def names(argument, options=None):
    return [name_of(one) for one in expand(str(argument), options).images()]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.PNG", "c/d.jpg", "c/a/e.webp", "a.b/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    for name in ("notes.txt", ".hidden.png", ".git/g.png", "__MACOSX/h.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("words")
    (tmp_path / "no-suffix").write_bytes(png())
    return tmp_path


def test_a_folder_by_content_and_name_sorted_and_nothing_hidden(folder):
    found = [os.path.relpath(name, folder) for name in names(folder)]
    assert found == ["a.PNG", "b.png", "no-suffix", "a.b/f.png", "c/d.jpg", "c/a/e.webp"]
    assert expand(str(folder)).count == 6


def test_globs(folder):
    assert [os.path.relpath(name, folder) for name in names(f"{folder}/**/*.png")] == [
        "__MACOSX/h.png",
        "a.b/f.png",
        "b.png",
    ]
    with pytest.raises(BadInput, match="No file matches"):
        expand(f"{folder}/*.gif")


def test_globs_with_two_stars_are_those_of_glob(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for pattern in ("**/*.png", "./**/*.png", "**", "c/**", "**/a/*", "*/**/*.*", "x**/*", f"{folder}/**/f.png"):
        expected = {os.path.normpath(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)}
        found = list(map(os.path.normpath, names(pattern))) if expected else []
        assert (found, pattern) == (sorted(expected), pattern)


def test_links_that_lead_back_up_end_nothing(folder):
    os.symlink(".", folder / "self")
    os.symlink(".", folder / "again")
    os.symlink("loop.png", folder / "loop.png")
    os.symlink("nowhere", folder / "broken.png")
    assert [os.path.relpath(name, folder) for name in names(f"{folder}/**/?.png")] == [
        "__MACOSX/h.png",
        "a.b/f.png",
        "b.png",
    ]
    found = [os.path.relpath(name, folder) for name in names(folder)]
    assert found[:5] == ["a.PNG", "b.png", "broken.png", "loop.png", "no-suffix"]
    assert len(found) == 8


def test_a_folder_that_cannot_be_read_is_told(folder, monkeypatch):
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("/c"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    last = list(expand(str(folder)).images())[-1]
    assert last == Unreadable(
        f"{folder}/c", f"{folder}/c is a folder that cannot be read (Permission denied): check its permissions."
    )


def test_globs_open_archives(tmp_path):
    write_zip(tmp_path / "p.zip", MEMBERS)
    (tmp_path / "p.png").write_bytes(png())
    (tmp_path / "p.bad").write_bytes(b"PK\x03\x04")
    bad, *found = expand(f"{tmp_path}/p*").images()
    assert "p.bad is a damaged archive (" in bad.error
    assert [getattr(one, "name", one) for one in found] == [
        f"{tmp_path}/p.png", *(f"{tmp_path}/p.zip/{name}" for name in WANTED)
    ]  # fmt: skip


def test_a_pipe_is_read_once_and_not_without_end(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[png(7)])
    writer.start()
    assert list(expand(f"{tmp_path}/pipe").images()) == [Named(f"{tmp_path}/pipe", png(7))]
    writer.join()
    monkeypatch.setattr("serve.sources.LARGEST", 100)
    (endless,) = expand("/dev/zero").images()
    assert endless == Unreadable("/dev/zero", "/dev/zero gives more than the 100 bytes that are read.")


def test_bitmaps_and_words_that_begin_like_them(tmp_path):
    cv2.imwrite(str(tmp_path / "a.bmp"), np.zeros((5, 5), np.uint8))
    (tmp_path / "a.bmp").rename(tmp_path / "a")
    (tmp_path / "b").write_text("BMP/0.png,mnist14k,7")
    assert names(tmp_path) == [f"{tmp_path}/a"]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa.png\nb c.png\r\n\nd.png", b"a.png\0b c.png\0d.png\0"])
def test_lists(tmp_path, content, monkeypatch):
    (tmp_path / "list.txt").write_bytes(content)
    assert names(f"@{tmp_path}/list.txt") == ["a.png", "b c.png", "d.png"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert names("@-") == ["a.png", "b c.png", "d.png"]


def test_lists_that_are_none(tmp_path, monkeypatch):
    (tmp_path / "empty.txt").write_text("\n\n")
    monkeypatch.setattr("serve.sources.LONGEST_LIST", 1000)
    with pytest.raises(BadInput, match="The list /dev/zero has more than 1,000 bytes: split it"):
        expand("@/dev/zero")
    with pytest.raises(BadInput, match="is empty: it holds one path a line"):
        expand(f"@{tmp_path}/empty.txt")
    with pytest.raises(BadInput, match="cannot be read \\(No such file"):
        expand(f"@{tmp_path}/no.txt")


def test_urls_only_where_they_are_allowed(tmp_path):
    with pytest.raises(BadInput, match=r"http://127.0.0.1/x.png is a URL: add --allow-url"):
        expand("http://127.0.0.1/x.png")
    assert list(expand("HTTPS://a.example/x.png", ALLOWED).images()) == [Url("HTTPS://a.example/x.png")]
    (tmp_path / "list.txt").write_text("a.png\nhttp://a.example/x.png\n")
    first, second = expand(f"@{tmp_path}/list.txt").images()
    assert (first, second.name) == ("a.png", "http://a.example/x.png")
    assert "add --allow-url" in second.error
    assert names(f"@{tmp_path}/list.txt", ALLOWED) == ["a.png", "http://a.example/x.png"]


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)


MEMBERS = [("b.png", png(1)), ("in/a.png", png(2)), ("labels.csv", b"x,y"), ("in/", b""), (".x/c.png", png()),
           ("__MACOSX/b.png", b""), ("scan", png(3)), ("broken.png", b"no image")]  # fmt: skip
WANTED = ["b.png", "in/a.png", "scan", "broken.png"]


def test_zip_whatever_its_name(tmp_path):
    path = tmp_path / "pictures.dat"
    write_zip(path, MEMBERS)
    found = list(expand(str(path)).images())
    assert [one.name for one in found] == [f"{path}/{name}" for name in WANTED]
    assert [one.data for one in found] == [dict(MEMBERS)[name] for name in WANTED]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_plain_and_compressed(tmp_path, mode):
    path = tmp_path / "pictures.png"  # a name that lies
    with tarfile.open(path, mode) as archive:
        for name, data in MEMBERS:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(data))
    found = list(expand(str(path)).images())
    assert [one.name for one in found] == [f"{path}/{name}" for name in WANTED]
    assert [one.data for one in found] == [dict(MEMBERS)[name] for name in WANTED]


def test_damaged_archives_are_a_sentence_and_lose_nothing_else(tmp_path):
    path = tmp_path / "p.zip"
    write_zip(path, [(f"{n}.png", os.urandom(300)) for n in range(3)])
    content = bytearray(path.read_bytes())
    start = content.index(b"1.png") + len("1.png")
    content[start + 20] ^= 255
    path.write_bytes(content)
    found = list(expand(str(path)).images())
    assert [type(one) for one in found] == [Named, Unreadable, Named]
    assert "1.png cannot be read from the archive (" in found[1].error
    path.write_bytes(content[:400])
    with pytest.raises(BadInput, match="is a damaged zip archive"):
        expand(str(path))

    path = tmp_path / "p.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(20):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 3000
            archive.addfile(info, io.BytesIO(os.urandom(3000)))
    path.write_bytes(path.read_bytes()[:30_000])
    found = list(expand(str(path)).images())
    assert 5 < len(found) < 15
    assert all(isinstance(one, Named) for one in found[:-1])
    assert "is damaged from here on" in found[-1].error
    path.write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(BadInput, match="is not a tar archive that can be read"):
        expand(str(path))


def tar(path, members):
    """Of members of 500 bytes: two blocks each."""
    with tarfile.open(path, "w") as archive:
        for number in range(members):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 500
            archive.addfile(info, io.BytesIO(bytes(500)))
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("damage", ["a header", "a cut", "a cut in a header", "a cut between"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_tar_that_ends_too_early_says_so(tmp_path, damage, packed):
    path = tmp_path / "p.tar"
    content = tar(path, 20)
    if damage == "a header":
        content[10 * 1024 + 3] ^= 1
    else:
        del content[10 * 1024 + {"a cut": 700, "a cut in a header": 100, "a cut between": 0}[damage] :]
    path.write_bytes(packed(content))
    found = list(expand(str(path)).images())
    assert [type(one) for one in found] == [Named] * 10 + [Unreadable]
    assert "p.tar is damaged from here on (" in found[-1].error
    path.write_bytes(packed(tar(path, 20)))
    assert len(list(expand(str(path)).images())) == 20


def test_links_in_a_tar_are_told(tmp_path):
    path = tmp_path / "p.tar"
    with tarfile.open(path, "w") as archive:
        for kind, name in ((tarfile.LNKTYPE, "a.png"), (tarfile.SYMTYPE, "b.png"), (tarfile.SYMTYPE, "notes.txt")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "c.png"
            archive.addfile(info)
    first, second = expand(str(path)).images()
    assert first.error == f"{path}/a.png is a link to c.png, and links in archives are not followed."
    assert second.name == f"{path}/b.png"


def test_a_damaged_member_of_a_zip_by_lzma(tmp_path):
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name in ("a.png", "b.png"):
            archive.writestr(name, png() + os.urandom(3000))
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    assert [type(one) for one in expand(str(path)).images()] == [Unreadable, Named]


def test_too_large_members_are_not_unpacked(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("huge.png", "w") as member:
        for _ in range(LARGEST // 2**20 + 1):
            member.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    (only,) = expand(str(path)).images()
    assert isinstance(only, Unreadable)
    assert "more than the" in only.error


@pytest.mark.parametrize("layout", ["hugging face", "plain", "dictionary"])
def test_parquet(tmp_path, layout):
    pictures = [png(n) for n in range(600)]
    pictures[3] = None
    if layout != "hugging face":
        image = pa.array(pictures, pa.binary())
        image = image.dictionary_encode() if layout == "dictionary" else image
    else:
        rows = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(pictures)]
        image = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    path = tmp_path / "x"
    pq.write_table(pa.table({"label": pa.array(range(600)), "image": image}), path)
    given = expand(str(path))
    found = list(given.images())
    assert given.count == 600
    assert [one.name for one in found] == [f"{path}/{n}" for n in range(600)]
    assert [getattr(one, "data", None) for one in found] == pictures
    assert found[3] == Unreadable(f"{path}/3", f"{path}/3 holds no image bytes.")


def test_parquet_that_is_none(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"label": [1, 2]}), path)
    with pytest.raises(BadInput, match="has no column of images"):
        expand(str(path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match="is a damaged parquet file"):
        expand(str(path))


def test_total(folder, tmp_path):
    write_zip(tmp_path / "z.zip", MEMBERS)
    assert total([expand(str(folder)), expand("nothing.png")]) == 7
    assert total([expand(str(folder)), expand(str(tmp_path / "z.zip"))]) is None
