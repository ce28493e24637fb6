"""Small files that unpack to much, or say so: bounded memory, bounded time, a sentence, and the rest answered.

Each is built here and read in a process of its own, whose peak memory and CPU time are measured, its children's too.
"""

import bz2
import gzip
import json
import lzma
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.attack, pytest.mark.slow]

MEGABYTE = 2**20
MOST_MEGABYTES = 300  # above what the process takes before it reads
MOST_SECONDS = 20  # of a processor

SCRIPT = """
import json, resource, sys, time
from serve.batch.inputs import ImageArgument, expand, name_of
from zoo.errors import BadInput

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

def seconds():
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

idle, begun, count, images, errors = peak(), seconds(), 0, 0, []
try:
    given = expand(sys.argv[1])
    for source in given.images():
        count += 1
        images += not hasattr(source, "error")
        if hasattr(source, "error"):
            errors = [*errors[:5], source.error]
except BadInput as error:
    errors.append(str(error))
import multiprocessing
for process in multiprocessing.active_children():
    process.kill()
    process.join()
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps([count, images, errors, peak() - idle, child, seconds() - begun]))
"""  # noqa: E501
CHILD_IDLE = 75  # megabytes that Python and pyarrow take in the process that reads parquet files


def read(path):
    """How many sources a file gives, how many of them images, and the first and last errors, within the bounds."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, path], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    count, images, errors, own, child, seconds = json.loads(done.stdout)
    print(f"{path}: {count} sources, {own:.0f} MB, child {child:.0f} MB, {seconds:.1f} s; {errors[:1]}")
    assert own < MOST_MEGABYTES
    assert child < MOST_MEGABYTES + CHILD_IDLE
    assert seconds < MOST_SECONDS
    return [count, images, errors]


def png():
    return cv2.imencode(".png", np.zeros((5, 5), np.uint8))[1].tobytes()


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def header(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data):
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def member(name, data):
    return header(name, len(data)) + padded(data)


def packed_zeros(how, megabytes):
    """A stream a megabyte."""
    return PACK[how](bytes(MEGABYTE)) * megabytes


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("how", PACK)
def test_a_tar_with_a_long_header(tmp_path, kind, how):
    """2 GB of zeros as the name of a member; what came before is answered."""
    size = 2 * 2**30
    packed = PACK[how](member("a.png", png()) + header("././@LongLink", size, kind)) + packed_zeros(how, size // 2**20)
    (tmp_path / "b.tar").write_bytes(packed + PACK[how](member("b.png", png())))
    count, images, errors = read(tmp_path / "b.tar")
    assert (count, images) == (2, 1)
    assert "exceeds a limit (it unpacks to more than" in errors[0]


def test_a_member_behind_a_long_header_is_named_and_the_rest_is_read(tmp_path):
    content = (
        member("a.png", png())
        + header("././@LongLink", 100_000, tarfile.GNUTYPE_LONGNAME) + padded(b"x" * 99_999 + b"\0")
        + member("short.png", png())
        + member("c.png", png())
    )  # fmt: skip
    (tmp_path / "b.tar").write_bytes(content + bytes(1024))
    count, images, errors = read(tmp_path / "b.tar")
    assert (count, images) == (3, 2)
    assert errors == [
        f"{tmp_path}/b.tar/short.png cannot be read: its header has 100,000 bytes, more than the limit of 65,536."
    ]


@pytest.mark.parametrize("name", ["huge.png", "notes.txt"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_that_claims_eight_terabytes(tmp_path, name, packed):
    content = member("a.png", png()) + header(name, 8 * 2**40)
    (tmp_path / "b.tar").write_bytes(gzip.compress(content) if packed else content)
    _, images, errors = read(tmp_path / "b.tar")
    assert images == 1
    assert "b.tar is damaged from here on (it ends too early)" in errors[-1]
    assert (len(errors) == 2) == (name == "huge.png")


def test_sparse_members_of_a_tar(tmp_path):
    """In GNU's three ways to write them; whatever size they state."""
    old = bytearray(header("old.png", 512, tarfile.GNUTYPE_SPARSE))
    old[386:410] = b"00000000000\x0000000001000\0"
    old[482] = 1  # there are more extents
    old[483:495] = b"\x80\0\0\0\0\0\x08" + bytes(5)
    old[148:156] = b"        "
    old[148:156] = b"%06o\0 " % sum(old)
    more = bytearray(512)
    records = b"".join(
        b"%d %s\n" % (len(text) + 4, text)
        for text in (b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.realsize=9999999999")
    )
    assert all(len(line) + 1 == int(line.split()[0]) for line in records.split(b"\n")[:-1])
    content = (
        bytes(old) + more + padded(b"x" * 512)
        + header("pax", len(records), tarfile.XHDTYPE) + padded(records) + member("GNUSparseFile.0/new.png", b"1\n0\n")
        + member("b.png", png())
    )  # fmt: skip
    (tmp_path / "b.tar").write_bytes(content + bytes(1024))
    count, images, errors = read(tmp_path / "b.tar")
    assert (count, images) == (3, 1)
    assert all("is a sparse file" in error for error in errors)


def test_a_tar_with_endless_sparse_extents(tmp_path):
    old = bytearray(header("old.png", 512, tarfile.GNUTYPE_SPARSE))
    old[482] = 1
    old[148:156] = b"        "
    old[148:156] = b"%06o\0 " % sum(old)
    (tmp_path / "b.tar").write_bytes(gzip.compress(bytes(old) + b"\1" * 512 * 200_000))
    assert read(tmp_path / "b.tar")[:2] == [1, 0]


def test_a_tar_with_a_chain_of_headers(tmp_path):
    """20,000 long names before one member, 500,000 pax records, 50,000 members: no recursion, flat memory."""
    link = header("././@LongLink", 512, tarfile.GNUTYPE_LONGNAME) + b"n" * 511 + b"\0"
    (tmp_path / "b.tar").write_bytes(gzip.compress(link * 20_000 + member("short.png", png()), 1))
    assert read(tmp_path / "b.tar")[:2] == [2, 1]
    records = b"5 a=\n" * 100
    long = header("pax", len(records), tarfile.XHDTYPE) + padded(records)
    (tmp_path / "c.tar").write_bytes(gzip.compress(long * 5_000 + member("b.png", png()) + bytes(512), 1))
    assert read(tmp_path / "c.tar")[:2] == [1, 1]
    (tmp_path / "d.tar").write_bytes(gzip.compress(member("notes.txt", b"") * 50_000 + bytes(512), 1))
    assert read(tmp_path / "d.tar")[:2] == [0, 0]


@pytest.mark.parametrize("how", PACK)
def test_a_tar_with_a_large_image(tmp_path, how):
    """60 MB are read, 2 GB are not."""
    start = PACK[how](header("a.png", 60 * MEGABYTE)) + packed_zeros(how, 60)
    (tmp_path / "b.tar").write_bytes(start + PACK[how](header("b.png", 2**31)) + packed_zeros(how, 2048))
    count, images, errors = read(tmp_path / "b.tar")
    assert (count, images) == (3, 1)
    assert "b.png has 2,147,483,648 bytes, more than the limit of 80,000,000 for an image." in errors[0]
    assert "exceeds a limit" in errors[1]


def test_an_xz_stream_that_wants_gigabytes_of_memory(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**30}]
    (tmp_path / "b.tar.xz").write_bytes(lzma.compress(member("a.png", png()) + bytes(1024), filters=filters))
    _, images, errors = read(tmp_path / "b.tar.xz")
    assert images == 0
    assert "is a damaged tar archive (Memory usage limit exceeded" in errors[0]


def test_a_gzip_header_with_a_long_name(tmp_path):
    name = b"n" * 50 * MEGABYTE
    body = gzip.compress(member("a.png", png()) + bytes(1024))
    (tmp_path / "b.tar.gz").write_bytes(body[:3] + b"\x08" + body[4:10] + name + b"\0" + body[10:])
    assert read(tmp_path / "b.tar.gz")[:2] == [1, 1]


def test_many_empty_gzip_streams(tmp_path):
    body = gzip.compress(b"") * 50_000 + gzip.compress(member("a.png", png()) + bytes(1024))
    (tmp_path / "b.tar.gz").write_bytes(body)
    assert read(tmp_path / "b.tar.gz")[:2] == [1, 1]


def test_a_zip_whose_members_share_their_data(tmp_path):
    """After Fifield's zip bombs (WOOT 2019): each entry of the directory points to the same large stream."""
    data = zlib.compress(bytes(50 * MEGABYTE), 9)[2:-4]
    local = struct.pack(
        "<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, zlib.crc32(bytes(50 * MEGABYTE)), len(data), 50 * MEGABYTE, 5, 0
    )
    entry = struct.pack(
        "<4s4B4HL2L5H2L",
        b"PK\1\2",
        20,
        0,
        20,
        0,
        0,
        8,
        0,
        33,
        zlib.crc32(bytes(50 * MEGABYTE)),
        len(data),
        50 * MEGABYTE,
        5,
        0,
        0,
        0,
        0,
        0,
        0,
    )
    directory = (entry + b"a.png") * 20_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 20_000, 20_000, len(directory), len(local) + 5 + len(data), 0)
    (tmp_path / "b.zip").write_bytes(local + b"a.png" + data + directory + end)
    count, images, errors = read(tmp_path / "b.zip")
    assert count >= images + 1
    assert images <= 5
    assert "exceeds a limit (it unpacks to more than" in errors[-1] or "Overlapped" in errors[0]


def test_a_zip_with_a_million_members(tmp_path):
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    directory = entry * 1_000_000
    local = b"PK\3\4" + bytes(26)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(local), 0)
    (tmp_path / "b.zip").write_bytes(local + directory + end)
    _, images, errors = read(tmp_path / "b.zip")
    assert images == 0
    assert "is a damaged zip archive (its directory has 46,000,000 bytes, more than the" in errors[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_sizes_lie(tmp_path, method):
    """Members of 100 MB that are said to have 70 or 300 MB; one that is what it says."""
    zeros = bytes(MEGABYTE)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", method) as archive:
        archive.writestr("good.png", png())
        for n in range(2):
            with archive.open(f"{n}.png", "w") as file:
                for _ in range(100):
                    file.write(zeros)
    content = bytearray((tmp_path / "b.zip").read_bytes())
    for n in range(2):
        place = content.rindex(b"PK\1\2", 0, content.rindex(b"%d.png" % n))
        struct.pack_into("<L", content, place + 24, (70 if n % 2 else 300) * MEGABYTE)
    (tmp_path / "b.zip").write_bytes(content)
    count, images, errors = read(tmp_path / "b.zip")
    assert (count, images) == (3, 1)
    assert "0.png has 314,572,800 bytes, more than the" in errors[0]
    assert "1.png cannot be read from the archive (" in errors[1]


def test_a_zip_whose_members_bzip2_packs_a_million_times(tmp_path):
    """320 MB in 400 bytes."""
    packer = bz2.BZ2Compressor()
    zeros = bytes(16 * MEGABYTE)
    data = b"".join([*(packer.compress(zeros) for _ in range(20)), packer.flush()])
    assert len(data) < 1_000
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.png", data)
        archive.writestr("b.png", png())
    content = bytearray((tmp_path / "b.zip").read_bytes())
    struct.pack_into("<H", content, 8, zipfile.ZIP_BZIP2)
    entry = content.index(b"PK\1\2")
    struct.pack_into("<H", content, entry + 10, zipfile.ZIP_BZIP2)
    struct.pack_into("<L", content, entry + 24, 70 * MEGABYTE)
    (tmp_path / "b.zip").write_bytes(content)
    count, images, errors = read(tmp_path / "b.zip")
    assert (count, images) == (2, 1)
    assert "a.png cannot be read from the archive (its size or checksum is wrong)" in errors[0]


def test_a_zip_with_a_large_dictionary(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", png())
        archive.writestr("b.png", png())
    content = bytearray((tmp_path / "b.zip").read_bytes())
    struct.pack_into("<L", content, content.index(b"a.png") + 5 + 5, 2**31)
    (tmp_path / "b.zip").write_bytes(content)
    count, images, errors = read(tmp_path / "b.zip")
    assert (count, images) == (2, 1)
    assert "it needs 2,147,483,648 bytes of memory to unpack" in errors[0]


def rows(path, values, kind=None, **options):
    pq.write_table(pa.table({"image": pa.array(values, kind or pa.binary())}), path, **options)


def test_a_parquet_file_with_one_large_value_in_many_rows(tmp_path):
    """A dictionary holds 16 MB once, 3 KB packed; 20 rows of it are 320 MB."""
    rows(tmp_path / "b.parquet", [bytes(16 * MEGABYTE)] * 20, compression="zstd", dictionary_pagesize_limit=2**30)
    count, images, errors = read(tmp_path / "b.parquet")
    assert count > images
    assert images <= 16
    assert "exceeds a limit" in errors[-1] or "MiB of memory" in errors[-1]


def test_a_parquet_file_with_a_large_page(tmp_path):
    """300 MB in one value, 10 KB packed."""
    rows(tmp_path / "b.parquet", [png(), bytes(300 * MEGABYTE)], compression="zstd", use_dictionary=False)
    assert (tmp_path / "b.parquet").stat().st_size < 200_000
    _, images, errors = read(tmp_path / "b.parquet")
    assert images <= 1
    assert "256 MiB of memory" in errors[-1]


def test_a_parquet_file_with_many_large_row_groups(tmp_path):
    """Rows of 2 MB of zeros, 40 to a row group, 2 GB in all: memory is flat, and the ratio ends it."""
    zeros = pa.table([pa.array([bytes(2 * MEGABYTE)] * 40)], ["image"])
    path = tmp_path / "b.parquet"
    with pq.ParquetWriter(path, zeros.schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(25):
            writer.write_table(zeros)
    count, images, errors = read(path)
    assert (count, images) == (129, 128)
    assert "exceeds a limit" in errors[-1]


def test_a_parquet_file_of_large_photographs_is_read(tmp_path):
    """20 rows of 4 MB in one page: what Hugging Face's writer makes of large photographs."""
    generator = np.random.default_rng(0)
    rows(tmp_path / "b.parquet", [generator.bytes(4 * MEGABYTE) for _ in range(20)], compression="snappy")
    assert read(tmp_path / "b.parquet") == [20, 20, []]


def test_a_parquet_file_of_prefixes(tmp_path):
    """DELTA_BYTE_ARRAY: each value is said to begin as the one before it."""
    value = bytes(8 * MEGABYTE)
    rows(
        tmp_path / "b.parquet", [value] * 40, compression="zstd", use_dictionary=False,
        column_encoding={"image": "DELTA_BYTE_ARRAY"},
    )  # fmt: skip
    count, images, _ = read(tmp_path / "b.parquet")
    assert count > images
    assert images <= 32


@pytest.mark.parametrize("nulls", [200_000, 30_000_000])
def test_a_parquet_file_with_rows_of_nothing(tmp_path, nulls):
    rows(tmp_path / "b.parquet", pa.nulls(nulls, pa.binary()))
    assert (tmp_path / "b.parquet").stat().st_size < 100_000
    count, images, errors = read(tmp_path / "b.parquet")
    assert (count, images) == (0, 0)
    assert f"declares {nulls:,} rows, more than it can contain" in errors[0]


def test_parquet_files_with_flipped_bytes(tmp_path):
    """Whatever they make Arrow do: a sentence, or images."""
    generator = np.random.default_rng(3)
    rows(tmp_path / "a.parquet", [png() + bytes([n]) for n in range(50)], compression="snappy")
    content = (tmp_path / "a.parquet").read_bytes()
    for _ in range(3):
        changed = bytearray(content)
        for place in generator.integers(4, len(content) - 8, 3):
            changed[place] ^= 1 << generator.integers(8)
        (tmp_path / "b.parquet").write_bytes(changed)
        _, images, errors = read(tmp_path / "b.parquet")
        assert images <= 50
        assert images == 50 or errors


def test_a_footer_of_deep_structs(tmp_path):
    kind = pa.binary()
    for _ in range(900):
        kind = pa.struct([("a", kind)])
    pq.write_table(pa.table({"x": pa.nulls(1, kind), "image": [png()]}), tmp_path / "b.parquet")
    _, images, errors = read(tmp_path / "b.parquet")
    assert images or errors
