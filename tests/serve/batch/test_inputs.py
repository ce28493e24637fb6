"""Arguments → images: every kind of source, in order, recognised by content and not by name."""

import bz2
import glob
import gzip
import io
import lzma
import multiprocessing
import os
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.batch.archives import Bounds, Unreadable
from serve.batch.inputs import SMALL_FILE_BYTES, Options, Url, expand, name_of, total
from zoo.errors import BadInput
from zoo.images.read import MAX_FILE_BYTES, Named


def png(value=0):
    return cv2.imencode(".png", np.full((5, 5), value % 256, np.uint8))[1].tobytes()


URLS_ALLOWED = Options(allow_url=True)


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


def test_folder_is_sorted_without_hidden_files(folder):
    paths = [os.path.relpath(name, folder) for name in names(folder)]
    assert paths == ["a.PNG", "b.png", "no-suffix", "a.b/f.png", "c/d.jpg", "c/a/e.webp"]
    assert expand(str(folder)).count == 6


IMAGES = {  # the first bytes of files: enough to recognise them
    "a.avif": b"\0\0\0\x1cftypavif\0\0\0\0mif1avif", "b.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "c.jp2": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
    "d.jxl": b"\xff\x0a\xfa\x1f\x01", "e.pgm": b"P5\n28 28\n255\n",
    "f.ico": b"\0\0\1\0\1\0\x10\x10\0\0\1\0", "g.tif": b"II*\0\x08\0\0\0", "h.qoi": b"qoif\0\0\0\x1c",
    "i.tga": b"\0\0\2\0",
    "j.svg": b"<svg/>", "k.webp": b"RIFF\0\0\0\0WEBPVP8 ",
}  # fmt: skip


def test_all_image_formats_are_read_and_others_counted(tmp_path):
    others = {"notes.txt": b"PI is 3", "l.csv": b"BMP/0.png,7", "empty": b"", "a.zip": b"PK\3\4"}
    for name, data in (IMAGES | others).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".hidden.avif").write_bytes(IMAGES["a.avif"])
    one_input = expand(str(tmp_path))
    assert [os.path.relpath(one, tmp_path) for one in one_input.images()] == sorted(IMAGES)
    assert one_input.skipped() == 4
    write_zip(tmp_path / "all.zip", [*(IMAGES | others).items(), (".hidden.avif", b"x")])
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for name in IMAGES | others | {".hidden.avif": b""}:
            archive.add(tmp_path / name, name)
    for path in (tmp_path / "all.zip", tmp_path / "all.tar"):
        one_input = expand(str(path))
        assert [one.name for one in one_input.images()] == [f"{path}/{name}" for name in IMAGES]
        assert one_input.skipped() == 4
        assert (len(list(one_input.images())), one_input.skipped()) == (
            len(IMAGES),
            4,
        )  # iterating again starts from the beginning


@pytest.mark.parametrize("name", [name for name in IMAGES if not name.endswith((".tga", ".svg"))])
def test_images_without_suffix_are_recognised(tmp_path, name):
    (tmp_path / "scan").write_bytes(IMAGES[name])
    assert names(tmp_path) == [f"{tmp_path}/scan"]


def test_folder_without_images_raises(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(BadInput, match=r"contains no images \(1 file is not an image\): choose another folder"):
        expand(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1200, 1800])
def test_very_deep_folders(tmp_path, depth):
    """Created and removed step by step, because neither shutil nor pytest can remove them."""
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("[", dir_fd=directory)
            directory, parent = os.open("[", os.O_RDONLY, dir_fd=directory), directory
            os.close(parent)
        with open(os.open("a.png", os.O_CREAT | os.O_WRONLY, dir_fd=directory), "wb") as file:
            file.write(png())
        deep = f"{tmp_path}/{'[/' * depth}a.png"
        assert names(tmp_path) == [deep]
        assert names(f"{tmp_path}/**/*.png") == [deep]
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "["], check=True)
        os.close(directory)


def test_too_deep_folder_is_an_error_row(tmp_path):
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(25):
            os.mkdir("d" * 200, dir_fd=directory)
            directory, parent = os.open("d" * 200, os.O_RDONLY, dir_fd=directory), directory
            os.close(parent)
        (tmp_path / "b.png").write_bytes(png())
        first, deep = expand(str(tmp_path)).images()
        assert first == f"{tmp_path}/b.png"
        assert "is a folder that cannot be read (File name too long)" in deep.error
    finally:
        subprocess.run(["rm", "-rf", tmp_path / ("d" * 200)], check=True)
        os.close(directory)


def test_glob_matches_files_in_order(folder):
    assert [os.path.relpath(name, folder) for name in names(f"{folder}/**/*.png")] == [
        "__MACOSX/h.png",
        "a.b/f.png",
        "b.png",
    ]
    with pytest.raises(BadInput, match="No file matches"):
        expand(f"{folder}/*.gif")


def test_double_star_globs_match_those_of_glob(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for pattern in ("**/*.png", "./**/*.png", "**", "c/**", "**/a/*", "*/**/*.*", "x**/*", f"{folder}/**/f.png"):
        expected = {os.path.normpath(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)}
        matches = list(map(os.path.normpath, names(pattern))) if expected else []
        assert (matches, pattern) == (sorted(expected), pattern)


def test_link_loops_are_not_followed(folder):
    os.symlink(".", folder / "self")
    os.symlink(".", folder / "again")
    os.symlink("loop.png", folder / "loop.png")
    os.symlink("nowhere", folder / "broken.png")
    assert [os.path.relpath(name, folder) for name in names(f"{folder}/**/?.png")] == [
        "__MACOSX/h.png",
        "a.b/f.png",
        "b.png",
    ]
    paths = [os.path.relpath(name, folder) for name in names(folder)]
    assert paths[:5] == ["a.PNG", "b.png", "broken.png", "loop.png", "no-suffix"]
    assert len(paths) == 8


def test_unreadable_folder_is_an_error_row(folder, monkeypatch):
    scandir = os.scandir

    def deny_one_folder(path):
        if str(path).endswith("/c"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny_one_folder)
    last = list(expand(str(folder)).images())[-1]
    assert last == Unreadable(
        f"{folder}/c", f"{folder}/c is a folder that cannot be read (Permission denied): check its permissions."
    )


def test_glob_opens_archives(tmp_path):
    write_zip(tmp_path / "p.zip", MEMBERS)
    (tmp_path / "p.png").write_bytes(png())
    (tmp_path / "p.bad").write_bytes(b"PK\x03\x04")
    bad, *images = expand(f"{tmp_path}/p*").images()
    assert "p.bad is a damaged archive (" in bad.error
    assert [getattr(one, "name", one) for one in images] == [
        f"{tmp_path}/p.png", *(f"{tmp_path}/p.zip/{name}" for name in IMAGE_NAMES)
    ]  # fmt: skip


def test_pipe_is_read_once_and_bounded(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[png(7)])
    writer.start()
    assert list(expand(f"{tmp_path}/pipe").images()) == [Named(f"{tmp_path}/pipe", png(7))]
    writer.join()
    monkeypatch.setattr("serve.batch.inputs.MAX_FILE_BYTES", 100)
    (endless,) = expand("/dev/zero").images()
    assert endless == Unreadable("/dev/zero", "/dev/zero has more than 100 bytes, the limit for an image.")


def test_text_beginning_with_bm_is_not_a_bitmap(tmp_path):
    cv2.imwrite(str(tmp_path / "a.bmp"), np.zeros((5, 5), np.uint8))
    (tmp_path / "a.bmp").rename(tmp_path / "a")
    (tmp_path / "b").write_text("BMP/0.png,mnist14k,7")
    assert names(tmp_path) == [f"{tmp_path}/a"]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa.png\nb c.png\r\n\nd.png", b"a.png\0b c.png\0d.png\0"])
def test_list_of_paths(tmp_path, content, monkeypatch):
    (tmp_path / "list.txt").write_bytes(content)
    assert names(f"@{tmp_path}/list.txt") == ["a.png", "b c.png", "d.png"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert names("@-") == ["a.png", "b c.png", "d.png"]


LINES = ["a.png", "b c.png", "ä→.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_list_encodings_and_line_ends(tmp_path, encoding, end):
    """PowerShell's `>` writes UTF-16 with a byte order mark; without a mark, UTF-8 is assumed."""
    mark = "\ufeff" if encoding.endswith("e") else ""
    (tmp_path / "list.txt").write_bytes((mark + end.join(LINES) + end).encode(encoding))
    assert names(f"@{tmp_path}/list.txt") == LINES


def test_small_files_are_loaded_on_request(tmp_path):
    options = Options(load_small_files=True)
    for size in (1, SMALL_FILE_BYTES - 1, SMALL_FILE_BYTES):
        (tmp_path / "a.png").write_bytes(bytes(size))
        path = f"{tmp_path}/a.png"
        assert list(expand(path).images()) == [path]
        assert list(expand(path, options).images()) == [Named(path, bytes(size)) if size < SMALL_FILE_BYTES else path]
    write_zip(tmp_path / "b.png", MEMBERS)
    assert names(tmp_path / "b.png", options) == [f"{tmp_path}/b.png/{name}" for name in IMAGE_NAMES]


def test_list_with_quoted_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text('"a b.png"\n"\n""\n"c.png\n"http://a.example/x.png"\n')
    assert names("@list.txt", URLS_ALLOWED) == ["a b.png", '"', '""', '"c.png', "http://a.example/x.png"]
    (tmp_path / '"q"').write_bytes(png())
    (tmp_path / "list.txt").write_text('"q"\n')
    assert names("@list.txt") == ['"q"']  # a file whose name contains the quotes


def test_truncated_utf16_list_raises(tmp_path):
    (tmp_path / "list.txt").write_bytes("a.png\n".encode("utf-16") + b"\0")
    with pytest.raises(BadInput, match=r"is damaged .*: write it as UTF-8"):
        expand(f"@{tmp_path}/list.txt")


def test_empty_missing_or_endless_list_raises(tmp_path, monkeypatch):
    (tmp_path / "empty.txt").write_text("\n\n")
    monkeypatch.setattr("serve.batch.inputs.MAX_LIST_BYTES", 1000)
    with pytest.raises(BadInput, match="The list /dev/zero has more than 1,000 bytes: split it"):
        expand("@/dev/zero")
    with pytest.raises(BadInput, match="is empty: write one path per line"):
        expand(f"@{tmp_path}/empty.txt")
    with pytest.raises(BadInput, match="cannot be read \\(No such file"):
        expand(f"@{tmp_path}/no.txt")


def test_arguments_with_nul_or_empty_names():
    assert names("a\0b.png") == ["a\0b.png"]  # its row has the error
    assert names("") == [""]
    for argument in ("@a\0b", "a\0*.png"):
        with pytest.raises(BadInput, match=r"cannot be read|No file matches"):
            expand(argument)


def test_urls_need_allow_url(tmp_path):
    with pytest.raises(BadInput, match=r"http://127.0.0.1/x.png is a URL: add --allow-url"):
        expand("http://127.0.0.1/x.png")
    assert list(expand("HTTPS://a.example/x.png", URLS_ALLOWED).images()) == [Url("HTTPS://a.example/x.png")]
    (tmp_path / "list.txt").write_text("a.png\nhttp://a.example/x.png\n")
    first, second = expand(f"@{tmp_path}/list.txt").images()
    assert (first, second.name) == ("a.png", "http://a.example/x.png")
    assert "add --allow-url" in second.error
    assert names(f"@{tmp_path}/list.txt", URLS_ALLOWED) == ["a.png", "http://a.example/x.png"]


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)


MEMBERS = [("b.png", png(1)), ("in/a.png", png(2)), ("labels.csv", b"x,y"), ("in/", b""), (".x/c.png", png()),
           ("__MACOSX/b.png", b""), ("scan", png(3)), ("broken.png", b"no image")]  # fmt: skip
IMAGE_NAMES = ["b.png", "in/a.png", "scan", "broken.png"]


def test_zip_is_recognised_by_content(tmp_path):
    path = tmp_path / "pictures.dat"
    write_zip(path, MEMBERS)
    images = list(expand(str(path)).images())
    assert [one.name for one in images] == [f"{path}/{name}" for name in IMAGE_NAMES]
    assert [one.data for one in images] == [dict(MEMBERS)[name] for name in IMAGE_NAMES]


UNUSUAL_NAMES = [
    "../digits/0.png",
    "./1.png",
    "/home/x/2.png",
    "..\\digits\\3.png",
    "C:\\x\\4.png",
    "../../5.png",
    "a//6.png",
    "7\\.png",
]
HIDDEN_NAMES = ["../.git/0.png", ".\\.x\\1.png", "a/.b/2.png", "...png/3.png", "../__MACOSX/4.png"]


def test_archive_names_from_other_systems(tmp_path):
    """Names as `zip -r x.zip ../digits` and Windows write them, and absolute names."""
    members = [(name, png()) for name in [*UNUSUAL_NAMES, *HIDDEN_NAMES]]
    write_zip(tmp_path / "a.zip", members)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    for path in (tmp_path / "a.zip", tmp_path / "a.tar"):
        assert names(path) == [f"{path}/{name}" for name in UNUSUAL_NAMES]


def stored_zip(members):
    """A zip archive with names that zipfile would not write."""
    body = directory = b""
    for name, data in members:
        sizes = zlib.crc32(data), len(data), len(data), len(name)
        directory += (
            struct.pack("<4s4B4H3LH4H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 33, *sizes, 0, 0, 0, 0, 0, len(body)) + name
        )
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, *sizes, 0) + name + data
    count = len(members)
    return body + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)


def test_zip_member_without_a_name_is_read(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(stored_zip([(b"", png(1)), (b"b.png", png(2)), (b"", b"words")]))
    one_input = expand(str(path))
    assert list(one_input.images()) == [Named(f"{path}/", png(1)), Named(f"{path}/b.png", png(2))]
    assert one_input.skipped() == 1


def test_links_in_zip_are_error_rows(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("b.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "c.png")
        archive.writestr("c.png", png())
    link, image = expand(f"{tmp_path}/a.zip").images()
    assert link.error == f"{tmp_path}/a.zip/b.png is a link. Links in archives are not followed."
    assert image.data == png()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_compression_methods(tmp_path, method):
    members = [("a.png", png() + os.urandom(200_000)), ("b.png", b""), ("c.png", png() + bytes(300_000))]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    assert [one.data for one in expand(f"{tmp_path}/a.zip").images()] == [data for _, data in members]


def test_tar_of_unix_version_7(tmp_path):
    """Its headers have no magic bytes, only a checksum."""
    with tarfile.open(tmp_path / "a", "w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo("seven.png")
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png()))
    content = bytearray((tmp_path / "a").read_bytes())
    content[257:512] = bytes(255)
    content[148:156] = b"        "
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "a").write_bytes(content)
    assert names(tmp_path / "a") == [f"{tmp_path}/a/seven.png"]
    content[0] ^= 1
    (tmp_path / "a").write_bytes(content)
    assert names(tmp_path / "a") == [f"{tmp_path}/a"]  # with a wrong checksum it is not an archive


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(path=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=240))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tar_names_match_tarfile(tmp_path, form, path):
    """Long names and names that are not ASCII: the same as Python's own reader, in each format."""
    name = f"x{path}.png"
    info = tarfile.TarInfo(name)
    info.size = len(png())
    try:
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
            archive.addfile(info, io.BytesIO(png()))
    except ValueError:  # too long for the format
        return
    with tarfile.open(tmp_path / "a.tar") as archive:
        (read,) = archive.getnames()
    is_hidden = any(part.startswith(".") for part in read.split("/"))
    assert is_hidden or names(tmp_path / "a.tar") == [f"{tmp_path}/a.tar/{read}"]


@pytest.mark.parametrize("name", ["BM.png", "BM/", "P5 1.png", "GIF89a.png", "II*.png"])
def test_tar_whose_first_name_has_image_magic(tmp_path, name):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for one in (name, "b.png"):
            info = tarfile.TarInfo(one)
            info.type = tarfile.DIRTYPE if one.endswith("/") else tarfile.REGTYPE
            archive.addfile(info)
    assert names(tmp_path / "a.tar")[-1] == f"{tmp_path}/a.tar/b.png"


def test_tar_of_several_compressed_streams(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(5):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 70_000
            archive.addfile(info, io.BytesIO(bytes(70_000)))
    content = (tmp_path / "a.tar").read_bytes()
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        streams = [pack(content[start : start + 33_333]) for start in range(0, len(content), 33_333)]
        (tmp_path / "b.tar").write_bytes(b"".join(streams))
        assert [len(one.data) for one in expand(f"{tmp_path}/b.tar").images()] == [70_000] * 5
    (tmp_path / "b.tar").write_bytes((b"\0" * 12).join(streams))  # xz allows padding
    assert len(names(tmp_path / "b.tar")) == 5


def archives(folder):
    """Write one archive of each kind, with images, other files, a long name and a link."""
    members = [("a.png", png(1)), ("notes.txt", b"words"), ("n" * 150 + ".png", png(2)), ("in/c.png", png(3))]
    for kind, method in {"stored": 0, "deflated": 8, "bzip2": 12, "lzma": 14}.items():
        with zipfile.ZipFile(folder / kind, "w", method) as archive:
            for name, data in members:
                archive.writestr(name, data)
    for kind, form in {"ustar": 0, "gnu": 1, "pax": 2}.items():
        with tarfile.open(folder / kind, "w", format=form) as archive:
            for name, data in members:
                info = tarfile.TarInfo(name.replace("n" * 150, "n" * 80 + "/" + "n" * 69))
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            info.type, info.linkname = tarfile.SYMTYPE, "a.png"
            archive.addfile(info)
    for kind, pack in {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.items():
        (folder / kind).write_bytes(pack((folder / "gnu").read_bytes()[:6000]))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_raises_only_bad_input(tmp_path, seed):
    """Flipped bits, deleted and repeated parts give images, error rows or BadInput; nothing else is raised."""
    generator = np.random.default_rng(seed)
    (tmp_path / "whole").mkdir()
    outcomes = set()
    for path in archives(tmp_path / "whole"):
        content = path.read_bytes()
        for _ in range(40):
            changed = bytearray(content)
            for _ in range(generator.integers(1, 4)):
                place, size = (int(one) for one in generator.integers(0, len(changed) - 64, 2))
                match generator.integers(4):
                    case 0:
                        changed[place] ^= 1 << int(generator.integers(8))
                    case 1:
                        del changed[place : place + size % 600]
                    case 2:
                        changed[place : place + 8] = generator.bytes(8)
                    case 3:
                        changed[place:place] = changed[size : size + 600]
            (tmp_path / "x").write_bytes(changed)
            try:
                images = list(expand(f"{tmp_path}/x").images())
            except BadInput as error:
                images = [str(error)]
            assert len(images) < 20
            outcomes |= set(map(type, images))
    assert outcomes == {Named, Unreadable, str}


def test_smaller_bounds_are_enforced(tmp_path):
    """The web page sets such bounds."""
    write_zip(tmp_path / "a.zip", [(f"{n}.png", os.urandom(1000)) for n in range(10)])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in [(f"{n}.png", os.urandom(1000)) for n in range(10)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    pq.write_table(pa.table({"image": [os.urandom(1000) for _ in range(10)]}), tmp_path / "a.parquet")
    for name in ("a.zip", "a.tar", "a.parquet"):
        *first, last = expand(f"{tmp_path}/{name}", Options(bounds=Bounds(members=4))).images()
        assert len(first) == 4
        assert last.error.endswith("exceeds a limit (it has more than 4 members): unpack it and pass the folder.")
        *first, last = expand(f"{tmp_path}/{name}", Options(bounds=Bounds(total_bytes=9000))).images()
        assert 4 <= len(first) <= 9
        assert "exceeds a limit (it unpacks to more than 9,000 bytes)" in last.error
        images = list(expand(f"{tmp_path}/{name}", Options(bounds=Bounds(member_bytes=999))).images())
        assert len(images) == 10
        assert all("has 1,000 bytes, more than the limit of 999 for an image." in one.error for one in images)
    assert Bounds().for_images_of(30).member_bytes == 96 * 10**6
    assert Bounds().for_images_of(1).member_bytes == Bounds().member_bytes


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_plain_and_compressed(tmp_path, mode):
    path = tmp_path / "pictures.png"  # a misleading suffix
    with tarfile.open(path, mode) as archive:
        for name, data in MEMBERS:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(data))
    images = list(expand(str(path)).images())
    assert [one.name for one in images] == [f"{path}/{name}" for name in IMAGE_NAMES]
    assert [one.data for one in images] == [dict(MEMBERS)[name] for name in IMAGE_NAMES]


def test_damaged_archives_keep_other_members(tmp_path):
    path = tmp_path / "p.zip"
    write_zip(path, [(f"{n}.png", os.urandom(300)) for n in range(3)])
    content = bytearray(path.read_bytes())
    start = content.index(b"1.png") + len("1.png")
    content[start + 20] ^= 255
    path.write_bytes(content)
    images = list(expand(str(path)).images())
    assert [type(one) for one in images] == [Named, Unreadable, Named]
    assert "1.png cannot be read from the archive (" in images[1].error
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
    images = list(expand(str(path)).images())
    assert 5 < len(images) < 15
    assert all(isinstance(one, Named) for one in images[:-1])
    assert "is damaged from here on" in images[-1].error
    path.write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(BadInput, match="is a damaged tar archive"):
        expand(str(path))


def tar(path, members):
    """Write members of 500 bytes, which take two blocks each."""
    with tarfile.open(path, "w") as archive:
        for number in range(members):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 500
            archive.addfile(info, io.BytesIO(bytes(500)))
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("damage", ["a header", "a cut", "a cut in a header", "a cut between"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_truncated_tar_is_an_error_row(tmp_path, damage, packed):
    path = tmp_path / "p.tar"
    content = tar(path, 20)
    if damage == "a header":
        content[10 * 1024 + 3] ^= 1
    else:
        del content[10 * 1024 + {"a cut": 700, "a cut in a header": 100, "a cut between": 0}[damage] :]
    path.write_bytes(packed(content))
    images = list(expand(str(path)).images())
    assert [type(one) for one in images] == [Named] * 10 + [Unreadable]
    assert "p.tar is damaged from here on (" in images[-1].error
    path.write_bytes(packed(tar(path, 20)))
    assert len(list(expand(str(path)).images())) == 20


def test_links_in_tar_are_error_rows(tmp_path):
    path = tmp_path / "p.tar"
    with tarfile.open(path, "w") as archive:
        for kind, name in ((tarfile.LNKTYPE, "a.png"), (tarfile.SYMTYPE, "b.png"), (tarfile.SYMTYPE, "notes.txt")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "c.png"
            archive.addfile(info)
    first, second = expand(str(path)).images()
    assert first.error == f"{path}/a.png is a link to c.png. Links in archives are not followed."
    assert second.name == f"{path}/b.png"


def test_damaged_lzma_member_of_a_zip(tmp_path):
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
        for _ in range(MAX_FILE_BYTES // 2**20 + 1):
            member.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    (image,) = expand(str(path)).images()
    assert isinstance(image, Unreadable)
    assert "more than the limit" in image.error


PLAIN = {
    "plain": pa.binary(), "large": pa.large_binary(), "view": pa.binary_view(), "fixed": pa.binary(len(png(255))),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
}  # fmt: skip


@pytest.mark.parametrize("layout", ["hugging face", "hugging face view", *PLAIN])
def test_parquet_layouts_give_all_images(tmp_path, layout):
    pictures = [png(n).ljust(len(png(255)), b"\0")[: len(png(255))] for n in range(600)]
    pictures[3] = None
    if layout in PLAIN:
        image = pa.array(pictures, PLAIN[layout])
    else:
        rows = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(pictures)]
        kind = pa.binary_view() if layout.endswith("view") else pa.binary()
        image = pa.array(rows, pa.struct([("bytes", kind), ("path", pa.string())]))
    path = tmp_path / "x"
    pq.write_table(
        pa.table({"label": pa.array(range(600)), "image": image}),
        path,
        row_group_size=None if "view" in layout else 250,
    )
    one_input = expand(str(path))
    images = list(one_input.images())
    assert one_input.count == 600
    assert [one.name for one in images] == [f"{path}/{n}" for n in range(600)]
    assert [getattr(one, "data", None) for one in images] == pictures
    assert images[3] == Unreadable(f"{path}/3", f"{path}/3 has no image bytes.")
    assert len(multiprocessing.active_children()) == 1  # waits for another file


@pytest.mark.slow
def test_parquet_column_with_images_is_selected(tmp_path):
    pictures = [None] * 40 + [png(n) for n in range(20)]
    masks = [png(n + 1) for n in range(60)]
    table = {
        "digest": pa.array([os.urandom(16) for _ in range(60)], pa.binary(16)),
        "thumbnail": pa.array([{"bytes": b"none", "path": ""}] * 60),
        "picture": pa.array(pictures, pa.binary()),
        "mask": pa.array(masks, pa.binary()),
    }
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(table), path)

    def read(options=None):
        return [getattr(one, "data", None) for one in expand(str(path), options).images()]

    assert read() == pictures  # the first of two columns with images
    assert read(Options(column="mask")) == masks
    assert read(Options(column="thumbnail")) == [b"none"] * 60
    with pytest.raises(BadInput, match=r"has no bytes column 'label'. Bytes columns: digest, mask, picture, thumb"):
        expand(str(path), Options(column="label"))
    pq.write_table(pa.table({name: table[name] for name in ("digest", "thumbnail")}), path)
    assert read() == [b"none"] * 60  # without images, structs are preferred


@pytest.mark.slow
def test_parquet_keeps_at_most_one_idle_process(tmp_path):
    for name in ("a", "b", "c"):
        pq.write_table(pa.table({"image": [png(n) for n in range(300)]}), tmp_path / name)
    first, second, third = (expand(f"{tmp_path}/{name}") for name in ("a", "b", "c"))
    assert len(multiprocessing.active_children()) == 1
    assert len(list(second.images())) == len(list(third.images())) == len(list(third.images())) == 300
    assert len(multiprocessing.active_children()) == 1
    reading = first.images()
    next(reading)
    reading.close()
    assert not multiprocessing.active_children()  # it was interrupted


def test_two_parquet_columns_of_one_name(tmp_path):
    path = tmp_path / "x.parquet"
    columns = [pa.array([b"words"] * 5), pa.array([png(n) for n in range(5)]), pa.array(range(5))]
    pq.write_table(pa.Table.from_arrays(columns, ["image", "image", "image"]), path)
    assert [one.data for one in expand(str(path)).images()] == [png(n) for n in range(5)]


def test_glob_of_parquet_files(tmp_path):
    for name in ("a", "b"):
        pq.write_table(pa.table({"image": [png(n) for n in range(3)]}), tmp_path / f"{name}.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and no more")
    *images, bad = expand(f"{tmp_path}/*.parquet").images()
    assert [one.name for one in images] == [f"{tmp_path}/{name}.parquet/{n}" for name in "ab" for n in range(3)]
    assert "c.parquet is a damaged parquet file (" in bad.error


def test_parquet_without_images_or_damaged_raises(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"label": [1, 2]}), path)
    with pytest.raises(BadInput, match="has no image column"):
        expand(str(path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match="is a damaged parquet file"):
        expand(str(path))


def test_total_counts_known_images(folder, tmp_path):
    write_zip(tmp_path / "z.zip", MEMBERS)
    assert total([expand(str(folder)), expand("nothing.png")]) == 7
    assert total([expand(str(folder)), expand(str(tmp_path / "z.zip"))]) is None


def test_single_image_imports_no_archive_module(tmp_path):
    (tmp_path / "1.png").write_bytes(png(1))
    script = (
        "import sys\nfrom serve.batch.inputs import expand\n"
        f"assert expand({str(tmp_path / '1.png')!r}).count == 1\n"
        "print([name for name in ('tarfile', 'zipfile', 'lzma', 'bz2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
