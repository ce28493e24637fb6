"""Checks of model files: limits, links, and ONNX files with external data or endless graphs."""

import os
import random
import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.hostile import GOOD_ONNX, endless, network, scalar, with_external_data
from zoo import model_files, registry, runtime
from zoo.errors import BadModel, ModelNotFound
from zoo.model import Model
from zoo.model_files import METADATA_KEY, check_onnx, read_file


@pytest.mark.parametrize("entry", registry.scan(), ids=lambda entry: entry.card.name)
def test_shipped_models_pass_check_onnx(entry):
    content = (entry.folder / "model.onnx").read_bytes()
    props = {entry.key: entry.value for entry in onnx.load_model_from_string(content).metadata_props}
    assert check_onnx(content, "x") == props[METADATA_KEY]


PLACES = list(with_external_data("x"))


@pytest.mark.parametrize("place", PLACES)
def test_refuses_external_data_everywhere(place, tmp_path, monkeypatch):
    """The external file is where every relative path would find it; its 4 bytes would be read as a float."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for parent in (folder, tmp_path / "a", tmp_path):
        (parent / "secret").write_bytes(np.float32(3).tobytes())
    for location in ("secret", "../secret", "../../secret", str(tmp_path / "secret")):
        content = with_external_data(location)[place].SerializeToString()
        with pytest.raises(BadModel, match="one flat graph in one file"):
            check_onnx(content, "x.onnx")
        with pytest.raises(BadModel, match="one flat graph in one file"):
            Model(content, "cpu")


@pytest.mark.parametrize(
    "place", ["initializer", "sparse initializer", "constant", "sparse constant", "subgraph", "function"]
)
def test_runtime_reads_no_external_data(place, tmp_path, monkeypatch):
    """A second barrier: with check_onnx disabled, the runtime still reads no external data."""
    monkeypatch.setattr(runtime, "check_onnx", lambda content, where: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(np.float32(3).tobytes())
    for location in ("secret", str(tmp_path / "secret")):
        with pytest.raises(BadModel, match="cannot be opened as an ONNX model"):
            Model(with_external_data(location)[place].SerializeToString(), "cpu")


def test_default_data_location_is_accepted():
    model = network([], [scalar("extra", 0)])
    model.graph.initializer[-1].data_location = onnx.TensorProto.DEFAULT
    assert b"\x70\x00" in model.graph.initializer[-1].SerializeToString()
    assert Model(model.SerializeToString(), "cpu").run(np.zeros((2, 28, 28, 1), np.uint8)).logits.shape == (2, 10)


@pytest.mark.parametrize(("kind", "words"), [("loop", "a graph inside an operator"), ("functions", "functions of its")])
def test_refuses_endless_graphs(kind, words):
    """30 functions that call each other twice are 2^30 operators for the runtime, which inlines them all."""
    started = time.process_time()
    with pytest.raises(BadModel, match=words):
        Model(endless()[kind].SerializeToString(), "cpu")
    assert time.process_time() - started < 1


def test_finds_external_data_in_damaged_files():
    """Every file in which the package onnx sees external data is refused: both read the message in the same way."""
    generator, refused = random.Random(0), 0
    sources = [model.SerializeToString() for model in with_external_data("../x").values()]
    for number in range(600):
        content = bytearray(sources[number % len(sources)])
        for _ in range(number % 4):
            content[-1 - generator.randrange(3000)] = generator.randrange(256)  # behind the matrix
        try:
            model = onnx.load_model_from_string(bytes(content))
        except Exception:  # no protobuf message
            continue
        if any(tensor.external_data or tensor.data_location for tensor in model.graph.initializer):
            refused += 1
            with pytest.raises(BadModel):
                check_onnx(bytes(content), "x")
    assert refused > 50


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_or_bad_model(content):
    message = "x "
    try:
        found = check_onnx(content, "x")
    except BadModel as error:
        found, message = None, str(error)
    assert found is None
    assert message.startswith("x ")


def test_many_fields_and_long_metadata_are_refused():
    started = time.process_time()
    with pytest.raises(BadModel, match="more than 500,000 fields"):
        check_onnx(b"\x08\x08" * 2_000_000, "x")
    model = onnx.load_model_from_string(GOOD_ONNX)
    model.metadata_props[0].value = "x" * (model_files.LARGEST_CARD + 1)
    with pytest.raises(BadModel, match=r"metadata of 1,048,\d+ bytes"):
        check_onnx(model.SerializeToString(), "x")
    assert time.process_time() - started < 3


def test_reads_a_file_up_to_its_limit(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(BadModel, match="5 bytes, more than the limit of 4"):
        read_file(path, 4)
    with pytest.raises(ModelNotFound, match="no model file"):
        read_file(tmp_path / "nothing.onnx", 5)


def test_huge_file_is_refused_without_reading(tmp_path):
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(BadModel, match="1,099,511,627,776 bytes"):
        read_file(path, model_files.LARGEST_MODEL)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "circle"])
def test_irregular_files_are_refused_at_once(kind, tmp_path):
    path = tmp_path / "model.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    started = time.monotonic()
    with pytest.raises(BadModel, match=r"not a regular file|cannot be read"):
        read_file(path, 100)
    assert time.monotonic() - started < 1


def test_links_out_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "inner").write_bytes(b"inside")
    (tmp_path / "outer").write_bytes(b"outside")
    (folder / "good").symlink_to("inner")
    (folder / "bad").symlink_to(tmp_path / "outer")
    assert read_file(folder / "good", 100, folder) == b"inside"
    for name in ("bad", "../outer"):
        with pytest.raises(BadModel, match="outside of"):
            read_file(folder / name, 100, folder)
    (tmp_path / "link").symlink_to(folder)
    assert read_file(tmp_path / "link" / "good", 100, tmp_path / "link") == b"inside"
