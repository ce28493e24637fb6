"""Object stores in and out: every object gives one row, faults are repeated or reported, and output appears whole."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from functools import partial

import pyarrow as pa
import pyarrow.parquet
import pytest

from serve.batch import remote, stored_output, stores, urls
from serve.batch.archives import Unreadable
from serve.batch.inputs import Options, StoredObject, expand
from serve.batch.pipeline import BatchJob, classify
from serve.batch.workers import Workers
from tests.serve.batch.test_ray_engine import table_of
from tests.support.examples import REPOSITORY
from tests.support.object_store import object_store
from zoo.errors import BadInput
from zoo.images.read import Named

pytest.importorskip("moto", reason="needs moto")
pytestmark = pytest.mark.slow  # the server takes seconds to start

PNG = (REPOSITORY / "examples/seven.png").read_bytes()
BUCKET = "pictures"
ALLOWED = Options(allow_store=True, allow_url=True)


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch, object_store(patch) as proxy:
        put_bucket(BUCKET)
        for number in range(12):
            put(f"{BUCKET}/digits/{number:03}.png", PNG)
        put(f"{BUCKET}/digits/notes.txt", b"no image")
        put(f"{BUCKET}/digits/.hidden.png", PNG)
        put(f"{BUCKET}/digits/unnamed", PNG)
        put(f"{BUCKET}/digits/empty.png", b"")
        for name, content in shards().items():
            request("pipe_file", f"{BUCKET}/shards/{name}", content, ACL="public-read")
        yield proxy


@pytest.fixture
def proxy(server):
    server.reset()
    yield server
    server.reset()


def request(method, *arguments, **options):
    return stores.submit(stores.call(stores.filesystem("s3"), method, *arguments, **options)).result()


def put_bucket(name):
    request("mkdir", name)


def put(path, content):
    request("pipe_file", path, content)


def get(path):
    return request("cat_file", path)


def below(path):
    try:
        return sorted(request("find", path))
    except FileNotFoundError:
        return []


def shards(count=9):
    """One tar, compressed tar, zip and parquet file, each with `count` images."""
    tar, packed, zipped, parquet = (io.BytesIO() for _ in range(4))
    for file, mode in ((tar, "w"), (packed, "w:gz")):
        with tarfile.open(fileobj=file, mode=mode) as archive:
            for number in range(count):
                info = tarfile.TarInfo(f"{number}.png")
                info.size = len(PNG)
                archive.addfile(info, io.BytesIO(PNG))
    with zipfile.ZipFile(zipped, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}.png", PNG)
    pa.parquet.write_table(pa.table({"image": [PNG] * count}), parquet)
    return {"a.tar": tar.getvalue(), "b.tgz": packed.getvalue(), "c.zip": zipped.getvalue(),
            "d.parquet": parquet.getvalue()}  # fmt: skip


def test_prefix_pattern_and_object(proxy):
    names = [f"s3://{BUCKET}/digits/{number:03}.png" for number in range(12)]
    for address in (f"s3://{BUCKET}/digits", f"s3://{BUCKET}/digits/", f"s3://{BUCKET}/digits/**"):
        argument = expand(address, ALLOWED)
        assert [one.name for one in argument.images()] == [
            *names, f"s3://{BUCKET}/digits/empty.png", f"s3://{BUCKET}/digits/unnamed"]  # fmt: skip
        assert argument.skipped() == 1  # notes.txt
    assert [one.name for one in expand(f"s3://{BUCKET}/digits/00[12]*", ALLOWED).images()] == names[1:3]
    (one,) = expand(names[0], ALLOWED).images()
    assert (one.name, one.size) == (names[0], len(PNG))
    assert one.version


def test_other_interfaces_do_not_read_stores(proxy):
    (source,) = expand(f"s3://{BUCKET}/digits/000.png").images()
    assert isinstance(source, str)  # a path that does not exist
    assert not proxy.requests


def test_objects_are_read_at_once_and_in_order(proxy):
    objects = [StoredObject(f"s3://{BUCKET}/digits/{n % 12:03}.png", len(PNG)) for n in range(64)]
    stores.fetch_objects(objects[:1])
    proxy.delay = 0.1
    started = time.monotonic()
    images = stores.fetch_objects(objects)
    assert time.monotonic() - started < 64 * 0.1 / 2
    assert images == [Named(one.name, PNG) for one in objects]
    assert 8 < proxy.most_at_once <= stores.CONNECTIONS


@pytest.mark.parametrize("fault", ["reset", "cut", "SlowDown", "ServiceUnavailable", "InternalError"])
def test_requests_are_repeated(proxy, fault):
    proxy.faults["digits/001.png"] = [fault]
    name = f"s3://{BUCKET}/digits/001.png"
    assert stores.fetch_objects([StoredObject(name, len(PNG))]) == [Named(name, PNG)]
    assert sum("digits/001.png" in line for line in proxy.requests) == 2


def test_bad_objects_are_rows(proxy, monkeypatch):
    monkeypatch.setattr(stores, "TOTAL_TIMEOUT_S", 2.0)
    address = f"s3://{BUCKET}/digits"
    proxy.faults["002.png"] = ["forever AccessDenied"]
    proxy.faults["003.png"] = ["forever SlowDown"]
    images = stores.fetch_objects([
        StoredObject(f"{address}/001.png", None),
        StoredObject(f"{address}/002.png", None),
        StoredObject(f"{address}/003.png", None),
        StoredObject(f"{address}/none.png", None),
        StoredObject(f"{address}/large.png", stores.MAX_BYTES + 1),
        StoredObject(f"{address}/004.png", 9),
        StoredObject(f"{address}/empty.png", 0),
    ])  # fmt: skip
    assert images[0] == Named(f"{address}/001.png", PNG)
    causes = [image.error.removeprefix(f"{image.name} ") for image in images[1:5]]
    assert "AccessDenied" in causes[0]
    assert "no answer in time" in causes[1] or "SlowDown" in causes[1]
    assert causes[2] == "cannot be read (it does not exist)."
    assert "more than 80,000,000 bytes" in causes[3]
    assert len(images[5].data) == 9  # as listed; the rest of a changed object is not read
    assert images[6].data == b""


def test_size_limit_of_unlisted_objects(proxy, monkeypatch):
    monkeypatch.setattr(stores, "MAX_BYTES", 100)
    (image,) = stores.fetch_objects([StoredObject(f"s3://{BUCKET}/digits/001.png", None)])
    assert "more than 100 bytes" in image.error


def test_shards(proxy, monkeypatch):
    monkeypatch.setattr(remote, "PIECE_BYTES", 2048)  # many pieces
    argument = expand(f"s3://{BUCKET}/shards/*", ALLOWED)
    images = list(argument.images())
    names = [f"s3://{BUCKET}/shards/{shard}/{n}" for shard, suffix in
             (("a.tar", ".png"), ("b.tgz", ".png"), ("c.zip", ".png"), ("d.parquet", "")) for n in
             (f"{k}{suffix}" for k in range(9))]  # fmt: skip
    assert images == [Named(name, PNG) for name in names]


@pytest.mark.parametrize("shard", ["a.tar", "b.tgz", "c.zip", "d.parquet"])
@pytest.mark.parametrize("fault", ["reset", "SlowDown"])
def test_shards_survive_faults(proxy, shard, fault):
    address = f"s3://{BUCKET}/shards/{shard}"
    argument = expand(address, ALLOWED)
    proxy.faults["GET"] = [fault, fault]
    assert [one.data for one in argument.images()] == [PNG] * 9


def test_half_written_shards(proxy):
    """Images before the end are kept, the rest is one row with an error."""
    for name, content in shards().items():
        put(f"{BUCKET}/half/{name}", content[: len(content) // 2])
    images = list(expand(f"s3://{BUCKET}/half/*", ALLOWED).images())
    errors = [image.error for image in images if isinstance(image, Unreadable)]
    assert len(errors) == 4
    assert any("a.tar is damaged from here on" in error for error in errors)
    assert 4 <= sum(isinstance(image, Named) for image in images) < 18
    assert not any("/tmp" in error for error in errors)


def test_shard_that_shrinks_while_it_is_read(proxy, monkeypatch):
    monkeypatch.setattr(remote, "PIECE_BYTES", 2048)
    monkeypatch.setattr(remote, "PIECES_AHEAD", 1)
    put(f"{BUCKET}/growing.tar", shards()["a.tar"])
    images = iter(expand(f"s3://{BUCKET}/growing.tar", ALLOWED).images())
    next(images)
    put(f"{BUCKET}/growing.tar", b"short")
    *_, last = images
    assert "growing.tar has changed while it was read" in last.error


def test_parquet_shard_needs_disk(proxy, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    (image,) = expand(f"s3://{BUCKET}/shards/d.parquet", ALLOWED).images()
    assert "set TMPDIR to a larger disk" in image.error


@pytest.mark.parametrize("shard", ["a.tar", "b.tgz", "c.zip", "d.parquet"])
def test_shards_from_urls(proxy, monkeypatch, shard):
    """`https://` archives are read in pieces too, and pieces are requested again."""
    monkeypatch.setattr(remote, "PIECE_BYTES", 2048)
    monkeypatch.setattr(urls, "FIRST_PAUSE_S", 0.01)
    proxy.faults["GET"] = ["reset", "SlowDown", "cut"]
    argument = expand(f"{proxy.url}/{BUCKET}/shards/{shard}", ALLOWED)
    assert [one.data for one in argument.images()] == [PNG] * 9
    if shard == "a.tar":
        proxy.faults["GET"] = ["forever ServiceUnavailable"]
        (image,) = argument.images()
        assert "cannot be downloaded (HTTP status 503" in image.error
        with pytest.raises(BadInput, match="503"):
            expand(f"{proxy.url}/{BUCKET}/shards/{shard}", ALLOWED)
        with pytest.raises(BadInput, match="add --allow-url"):
            expand(f"{proxy.url}/{BUCKET}/shards/{shard}", Options(allow_store=True))


@pytest.mark.parametrize(
    ("address", "message"),
    [("s3://nobucket-here/x/**", "there is no bucket nobucket-here"),
     (f"s3://{BUCKET}/nothing/**", "matches no objects"),
     (f"s3://{BUCKET}/nothing/", "matches no objects"),
     ("s3://", "names no bucket"), ("s3://b*/x", "name the bucket")],
)  # fmt: skip
def test_nothing_to_read_ends_with_2(proxy, run, address, message):
    code, _, err = run("predict", address)
    assert (code, message in err) == (2, True), err


@pytest.mark.parametrize("fault", ["InvalidAccessKeyId", "AccessDenied"])
def test_wrong_credentials_end_with_3(proxy, run, fault, tmp_path):
    proxy.faults["GET"] = [f"forever {fault}"]
    code, out, err = run("predict", f"s3://{BUCKET}/digits", "-o", f"{tmp_path}/rows.csv")
    assert (code, out, "Check the credentials" in err, fault in err) == (3, "", True, True), err
    assert not os.listdir(tmp_path)


def test_missing_object_is_a_row(proxy, run):
    code, out, _ = run("predict", f"s3://{BUCKET}/none.png", f"s3://{BUCKET}/digits/000.png", "--format", "jsonl")
    first, second = map(json.loads, out.splitlines())
    assert (code, "does not exist" in first["error"], second["label"]) == (1, True, "7")


def test_list_of_objects(proxy, run, tmp_path):
    (tmp_path / "list.txt").write_text(f"s3://{BUCKET}/digits/000.png\n{REPOSITORY}/examples/two.jpg\n")
    code, out, _ = run("predict", f"@{tmp_path}/list.txt", "--format", "jsonl")
    assert (code, [json.loads(line)["label"] for line in out.splitlines()]) == (0, ["7", "2"])


def test_repositories_are_not_written(proxy, run):
    code, _, err = run("predict", f"s3://{BUCKET}/digits", "-o", "hf://me/repository/rows.csv")
    assert (code, "only read" in err) == (2, True), err


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_output_equals_local_output(proxy, run, tmp_path, suffix):
    address = f"s3://{BUCKET}/out/rows.{suffix}"
    assert run("predict", f"s3://{BUCKET}/digits/0*", "-o", f"{tmp_path}/rows.{suffix}")[0] == 0
    assert run("predict", f"s3://{BUCKET}/digits/0*", "-o", address)[0] == 0
    assert get(address[5:]) == (tmp_path / f"rows.{suffix}").read_bytes()
    assert below(f"{BUCKET}/out/rows.{suffix}.parts") == []


def test_interrupted_run_is_resumed_elsewhere(proxy, run, monkeypatch):
    """The output does not exist before it is complete; parts in the store are not computed again."""
    monkeypatch.setattr("serve.batch.resume.PART_ROWS", 4)
    monkeypatch.setattr("serve.batch.pipeline.CHUNK", 4)
    address, out = f"s3://{BUCKET}/digits/**", f"s3://{BUCKET}/resumed/rows.jsonl"
    proxy.faults["008.png"] = ["forever AccessDenied"]
    code, _, err = run("predict", address, "-o", out, "--on-error", "fail")
    assert (code, f"8 rows are saved in {out}.parts. Continue with --resume." in err) == (1, True), err
    assert below(f"{BUCKET}/resumed") == [
        f"{BUCKET}/resumed/rows.jsonl.parts/{name}"
        for name in ("000000.json", "000000.rows", "000001.json", "000001.rows", "job.json")
    ]
    code, _, err = run("predict", address, "-o", out)
    assert (code, "unfinished run: add --resume" in err) == (2, True), err
    proxy.reset()
    put(f"{BUCKET}/resumed/rows.jsonl.parts/000001.rows", b"damaged")
    code, _, err = run("predict", address, "-o", out, "--resume")
    assert (code, "Part 1 in" in err) == (1, True), err  # empty.png
    rows = [json.loads(line) for line in get(out[5:]).splitlines()]
    assert [row["input"] for row in rows] == [one.name for one in expand(address, ALLOWED).images()]
    assert sum("000.png" in line for line in proxy.requests) == 0
    assert below(f"{BUCKET}/resumed") == [f"{BUCKET}/resumed/rows.jsonl"]
    code, _, err = run("predict", address, "-o", out, "--resume")
    assert (code, "Nothing to resume" in err) == (2, True), err


def test_changed_objects_are_not_resumed(proxy, run, monkeypatch):
    monkeypatch.setattr("serve.batch.resume.PART_ROWS", 4)
    monkeypatch.setattr("serve.batch.pipeline.CHUNK", 4)
    put(f"{BUCKET}/changing/1.png", PNG)
    for number in range(2, 7):
        put(f"{BUCKET}/changing/{number}.png", PNG if number < 6 else b"")
    out = f"s3://{BUCKET}/changed/rows.jsonl"
    assert run("predict", f"s3://{BUCKET}/changing/", "-o", out, "--on-error", "fail")[0] == 1
    put(f"{BUCKET}/changing/1.png", PNG + b" ")
    code, _, err = run("predict", f"s3://{BUCKET}/changing/", "-o", out, "--resume")
    assert (code, "have changed" in err) == (2, True), err


def test_two_runs_with_one_output(proxy, run):
    files = stored_output.StoredFiles(f"s3://{BUCKET}/shared.csv.parts")
    lock = stored_output.Lock(files)
    code, _, err = run("predict", f"s3://{BUCKET}/digits", "-o", f"s3://{BUCKET}/shared.csv")
    assert (code, "Another run (process" in err, "shared.csv.parts/lock" in err) == (2, True, True), err
    assert lock.is_held()
    lock.release()
    assert run("predict", f"s3://{BUCKET}/digits/0*", "-o", f"s3://{BUCKET}/shared.csv")[0] == 0
    assert below(f"{BUCKET}/shared.csv.parts") == []


def test_lock_of_a_killed_run_of_this_machine_is_removed(proxy, run):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    import socket

    owner = {"host": socket.gethostname(), "pid": int(done.stdout), "since": "today"}
    put(f"{BUCKET}/killed.csv.parts/lock", json.dumps(owner).encode())
    assert run("predict", f"s3://{BUCKET}/digits/0*", "-o", f"s3://{BUCKET}/killed.csv")[0] == 0


def test_own_lock_is_recognised_after_a_lost_answer(proxy):
    proxy.faults["PUT"] = ["cut"]  # the object is created, but the client does not know
    lock = stored_output.Lock(stored_output.StoredFiles(f"s3://{BUCKET}/lost.csv.parts"))
    assert lock.is_held()
    lock.release()


def test_unwritable_output_ends_before_work(proxy, run):
    code, _, err = run("predict", f"s3://{BUCKET}/digits", "-o", "s3://nobucket-here/rows.csv")
    assert (code, "no such bucket" in err) == (3, True), err
    proxy.faults["PUT"] = ["forever AccessDenied"]
    code, _, err = run("predict", f"s3://{BUCKET}/digits", "-o", f"s3://{BUCKET}/denied.csv")
    assert (code, "AccessDenied" in err) == (3, True), err


def test_failed_upload_keeps_the_parts(proxy, run):
    proxy.faults["failed.csv HTTP"] = ["forever AccessDenied"]
    code, _, err = run("predict", f"s3://{BUCKET}/digits/0*", "-o", f"s3://{BUCKET}/failed.csv")
    assert (code, "continue with --resume" in err) == (1, True), err
    proxy.reset()
    assert f"{BUCKET}/failed.csv" not in below(BUCKET)
    assert run("predict", f"s3://{BUCKET}/digits/0*", "-o", f"s3://{BUCKET}/failed.csv", "--resume")[0] == 0
    assert len(get(f"{BUCKET}/failed.csv").splitlines()) == 13


def test_worker_processes_read_objects(proxy, model):
    """Slow and failing answers lose no row."""
    objects = [StoredObject(f"s3://{BUCKET}/digits/{number:03}.png", len(PNG)) for number in range(12)]
    proxy.faults["005.png"] = ["slow"]
    proxy.faults["007.png"] = ["reset", "SlowDown"]
    with Workers(partial(classify, BatchJob(model)), 1) as workers:
        blocks = list(workers.results([objects[:6], objects[6:]]))
    rows = [row for block in blocks for row in block.payload]
    assert [row.input for row in rows] == [one.name for one in objects]
    assert {row.label for row in rows} == {"7"}


@pytest.mark.attack
@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize("name", ["../../../{escape}", "../rows", "thesis.txt", "000000.rows/x", "/{escape}"])
def test_foreign_objects_below_the_parts_are_neither_read_nor_deleted(proxy, run, tmp_path, name, resume):
    """Others may be able to write to the bucket: the name of an object is never a local path."""
    out = f"{BUCKET}/foreign/{len(name)}{len(resume)}.csv"
    escape = os.path.relpath(tmp_path / "escaped", "/")
    key = f"{out}.parts/{name.format(escape='../' * 20 + escape if name.startswith('..') else escape)}"
    put(f"{out}.parts/job.json", b"{}")
    put(key, b"foreign")
    code, _, err = run("predict", f"s3://{BUCKET}/digits/000.png", "-o", f"s3://{out}", *resume)
    assert (code, "which is not part of a run" in err) == (2, True), err
    assert get(key) == b"foreign"
    assert not (tmp_path / "escaped").exists()
    assert not any(one.endswith("/lock") for one in below(f"{out}.parts"))


def test_ray_reads_prefixes_of_images_and_archives_like_the_local_engine(proxy, in_process, run, tmp_path):
    put(f"{BUCKET}/mix/000.png", PNG)
    put(f"{BUCKET}/mix/b[1].png", PNG)
    put(f"{BUCKET}/mix/readme", b"no image")
    for name, content in shards().items():
        put(f"{BUCKET}/mix/s[1]{name}", content)
    address, out = f"s3://{BUCKET}/mix", tmp_path / "out"
    assert run("predict", address, "--engine", "ray", "-o", out)[0] == 0
    assert run("predict", address, "-o", tmp_path / "rows.parquet")[0] == 0
    assert table_of(out) == pa.parquet.read_table(tmp_path / "rows.parquet").sort_by("input")
    (out / "_SUCCESS").unlink()
    put(f"{BUCKET}/mix/s[1]a.tar", shards(3)["a.tar"])
    code, _, err = run("predict", address, "--engine", "ray", "-o", out, "--resume")
    assert (code, "other options or images" in err) == (2, True), err


def test_missing_package(monkeypatch):
    stores.filesystem.cache_clear()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(BadInput, match=r"pip install 'pocketzoo\[cloud\]'"):
        stores.list_objects("s3://bucket/x")
    stores.filesystem.cache_clear()
