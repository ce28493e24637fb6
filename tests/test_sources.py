"""Arguments → images: every kind of source, in order, by content and not by name."""

import io
import os
import tarfile
import zipfile

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve.archives import LARGEST, Unreadable
from serve.sources import Url, expand, total
from zoo.errors import BadInput
from zoo.image import Named


def png(value=0):
    return cv2.imencode(".png", np.full((5, 5), value % 256, np.uint8))[1].tobytes()


def names(argument, **options):
    return [one if isinstance(one, str) else one.name for one in expand(str(argument), **options).images()]


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


@pytest.mark.parametrize("content", [b"a.png\nb c.png\r\n\nd.png", b"a.png\0b c.png\0d.png\0"])
def test_lists(tmp_path, content, monkeypatch):
    (tmp_path / "list.txt").write_bytes(content)
    assert names(f"@{tmp_path}/list.txt") == ["a.png", "b c.png", "d.png"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert names("@-") == ["a.png", "b c.png", "d.png"]


def test_lists_that_are_none(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(BadInput, match="is empty: it holds one path a line"):
        expand(f"@{tmp_path}/empty.txt")
    with pytest.raises(BadInput, match="cannot be read \\(No such file"):
        expand(f"@{tmp_path}/no.txt")


def test_urls_only_where_they_are_allowed(tmp_path):
    with pytest.raises(BadInput, match=r"http://127.0.0.1/x.png is a URL: add --allow-url"):
        expand("http://127.0.0.1/x.png")
    assert list(expand("https://a.example/x.png", allow_url=True).images()) == [Url("https://a.example/x.png")]
    (tmp_path / "list.txt").write_text("a.png\nhttp://a.example/x.png\n")
    with pytest.raises(BadInput, match="add --allow-url"):
        expand(f"@{tmp_path}/list.txt")
    assert names(f"@{tmp_path}/list.txt", allow_url=True) == ["a.png", "http://a.example/x.png"]


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


def test_too_large_members_are_not_unpacked(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("huge.png", "w") as member:
        for _ in range(LARGEST // 2**20 + 1):
            member.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    (only,) = expand(str(path)).images()
    assert isinstance(only, Unreadable)
    assert "more than the" in only.error


@pytest.mark.parametrize("layout", ["hugging face", "plain"])
def test_parquet(tmp_path, layout):
    pictures = [png(n) for n in range(600)]
    pictures[3] = None
    if layout == "plain":
        image = pa.array(pictures, pa.binary())
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
