"""Rows of parquet files that worker processes read: the same images, also where a file is damaged or hostile."""

import multiprocessing
import os
import resource
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import active_children

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve.batch import parquet_reader, parquet_rows
from serve.batch.archives import Unreadable
from serve.batch.inputs import expand
from serve.batch.parquet_reader import Column
from serve.batch.parquet_rows import Rows
from serve.batch.pipeline import BatchJob, classify, run, split
from serve.batch.workers import Workers
from tests.serve.batch.test_pipeline import CollectedRows
from tests.support import work


def png(number):
    return cv2.imencode(".png", np.full((28, 28), number % 256, np.uint8))[1].tobytes()


def write(path, values, row_group_size=250, **options):
    pq.write_table(pa.table({"image": pa.array(values, pa.binary())}), path, row_group_size=row_group_size, **options)
    return str(path)


def sources_of(path, after=0):
    """The sources of a file, of which workers read those behind the first `after`."""
    argument = expand(path)
    argument.read_in_workers(after == 0)
    for number, source in enumerate(argument.images(), 1):
        yield source
        if number == after:
            argument.read_in_workers(True)


def read_all(path, after=0):
    images = []
    for source in sources_of(path, after):
        images += parquet_rows.read(source).images if isinstance(source, Rows) else [source]
    return images


@pytest.mark.parametrize("after", [0, 1, 100, 250, 599])
def test_workers_read_the_same_images(tmp_path, after):
    values = [png(n) for n in range(600)]
    values[3] = values[400] = None
    path = write(tmp_path / "x", values)
    images = read_all(path, after)
    assert images == list(expand(path).images())
    assert [getattr(image, "data", None) for image in images] == values
    assert any(isinstance(source, Rows) for source in sources_of(path, after)) == (after < 599)


def test_rows_are_read_in_any_order(tmp_path):
    path = write(tmp_path / "x", [b"%d" % n for n in range(1000)], row_group_size=400)
    ranges = list(sources_of(path))
    np.random.default_rng(0).shuffle(ranges)
    for rows in ranges:
        names = [f"{path}/{n}" for n in range(rows.first, rows.first + rows.count)]
        assert [(image.name, image.data) for image in parquet_rows.read(rows).images] == [
            (name, name.rpartition("/")[2].encode()) for name in names
        ]


def test_limits_are_lifted_after_reading(tmp_path):
    limits = (resource.RLIMIT_DATA, resource.RLIMIT_CPU, resource.RLIMIT_CORE)
    before = [resource.getrlimit(limit) for limit in limits]
    (rows, *_) = sources_of(write(tmp_path / "x", [png(0)] * 10))
    assert parquet_rows.read(rows)
    assert [resource.getrlimit(limit) for limit in limits] == before


def test_large_row_groups_are_not_read_by_several_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_reader, "SHARED_GROUP_BYTES", 1000)

    path = write(tmp_path / "x", [os.urandom(20_000) for _ in range(10)], use_dictionary=False)
    with pq.ParquetFile(path) as file:
        assert parquet_reader._groups(file, Column("image", 0, None)) == []
        monkeypatch.setattr(parquet_reader, "SHARED_GROUP_BYTES", 10**6)
        assert parquet_reader._groups(file, Column("image", 0, None)) == [10]


def results_of_workers(path, function):
    """The results of two workers that read all rows; and how many sources were `Rows`."""
    count = 0

    def blocks():
        nonlocal count
        for block in split(sources_of(path)):
            count += isinstance(block[0], Rows)
            yield block

    with Workers(function, 2) as workers:
        workers.wait_until_ready()
        return [image for result in workers.results(blocks()) for image in result], count


@pytest.mark.slow
def test_damage_is_reported_once_and_the_rows_before_it_are_read(tmp_path):
    path = write(tmp_path / "x", [png(n) for n in range(2000)], compression="zstd", use_dictionary=False)
    content = bytearray((tmp_path / "x").read_bytes())
    start = pq.read_metadata(path).row_group(4).column(0).data_page_offset
    content[start + 40 : start + 400] = bytes(360)
    (tmp_path / "x").write_bytes(content)
    images, _ = results_of_workers(path, work.names_and_errors)
    names = [name for name, error in images if not error]
    errors = [error for _, error in images if error]
    assert names[:1000] == [f"{path}/{n}" for n in range(1000)]
    assert len(errors) == 1
    assert "is a damaged parquet file (" in errors[0]
    assert ", from row 1000: get the file again." in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("row_group_size", [50, 100, 300])
def test_rows_after_damage_are_not_reported_whichever_worker_reads_them(tmp_path, row_group_size):
    path = write(tmp_path / "x", [png(n) for n in range(3000)], row_group_size, use_dictionary=False)
    content = bytearray((tmp_path / "x").read_bytes())
    for group in (900 // row_group_size, 1200 // row_group_size):  # the later damage is often found first
        start = pq.read_metadata(path).row_group(group).column(0).data_page_offset
        content[start + 40 : start + 400] = bytes(360)
    (tmp_path / "x").write_bytes(content)
    expected = [(image.name, getattr(image, "error", None)) for image in expand(path).images()]
    assert expected[-1][0] == path
    for _ in range(5):
        assert results_of_workers(path, work.names_and_errors)[0] == expected


def keep_and_read(path):
    """In a process of its own: read rows while a file makes the process keep more with each of them."""
    kept = []
    read = parquet_rows._Cursor.read

    def read_and_keep(cursor, rows):
        kept.append(bytearray(40 * 2**20))
        return read(cursor, rows)

    parquet_rows._Cursor.read = read_and_keep
    return [parquet_rows.read(rows) is not None for rows in sources_of(path)]


@pytest.mark.attack
def test_memory_that_a_file_makes_a_worker_keep_is_limited(tmp_path):
    path = write(tmp_path / "x", [b"%d" % n for n in range(128 * 12)], row_group_size=128 * 12)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        results = pool.submit(keep_and_read, path).result()
    assert results[0]
    assert not results[-1]


@pytest.mark.slow
@pytest.mark.attack
def test_worker_that_needs_too_much_memory_leaves_the_rows_to_the_reader(tmp_path):
    """A value of 45 MB, packed into a few KB: more than a worker may take, less than the reader may."""
    values = [b"%d" % n for n in range(8000)]
    values[500] = bytes(45 * 2**20)
    path = write(tmp_path / "x", values, row_group_size=8000, compression="zstd", use_dictionary=False)
    images, count = results_of_workers(path, work.names_and_errors)
    assert images == [(f"{path}/{n}", None) for n in range(8000)]
    assert 0 < count < 20  # of 63


@pytest.mark.slow
@pytest.mark.attack
def test_hostile_dictionary_ends_with_an_error_and_not_with_dead_workers(tmp_path):
    """2 MB once in a dictionary, in 1,000 rows: unpacked bytes are limited wherever they are read."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array([bytes(2 * 2**20)], pa.binary()))
    path = str(tmp_path / "x")
    pq.write_table(pa.table({"image": values}), path, compression="zstd", dictionary_pagesize_limit=2**30)
    images, _ = results_of_workers(path, work.names_and_errors)
    assert len(images) < 500
    assert "exceeds a limit" in images[-1][1] or "MiB of memory" in images[-1][1]


@pytest.mark.slow
def test_image_in_a_parquet_file_that_kills_its_worker_is_an_error_row(tmp_path):
    values = [b"%d" % n for n in range(600)]
    values[300] = b"poison"
    path = write(tmp_path / "x", values)
    images, _ = results_of_workers(path, work.die_of_poisoned_bytes)
    assert [name for name, _ in images] == [f"{path}/{n}" for n in range(600)]
    assert [name for name, error in images if error] == [f"{path}/300"]
    assert f"crashed the worker process (exit code {-signal.SIGSEGV})" in images[300][1]


@pytest.mark.slow
def test_run_reads_rows_in_workers_and_gives_the_same_rows(tmp_path, model, monkeypatch):
    monkeypatch.setattr(Workers, "ready", lambda workers: workers.wait_until_ready() or True)
    path = write(tmp_path / "x", [png(n) if n % 7 else None for n in range(2000)], row_group_size=700)
    job, one, several = BatchJob(model), CollectedRows(), CollectedRows()
    run([expand(path)], job, one, processes=1)
    argument = expand(path)
    kinds = set()
    images = argument.images

    def watched():
        for source in images():
            kinds.add(type(source))
            yield source

    object.__setattr__(argument, "images", watched)
    run([argument], job, several, processes=2)
    assert several.rows == one.rows
    assert Rows in kinds
    assert len(active_children()) <= 1  # the reader


def test_unreadable_rows_name_the_reason(tmp_path, model):
    path = write(tmp_path / "x", [None] * 300)
    with Workers(partial(classify, BatchJob(model)), 1) as workers:
        rows = [row for block in workers.results(split(sources_of(path))) for row in block.payload]
    assert [row.error for row in rows] == [f"{path}/{n} has no image bytes." for n in range(300)]
    assert isinstance(parquet_rows.without_bytes("x"), Unreadable)


@pytest.mark.slow
def test_reader_that_has_ended_is_replaced(tmp_path):
    path = write(tmp_path / "x", [png(n) for n in range(300)])
    argument = expand(path)
    for _ in range(2):
        for child in active_children():
            child.kill()
            child.join()
        assert len(list(argument.images())) == 300
    for child in active_children():
        child.kill()
    assert expand(path).count == 300
