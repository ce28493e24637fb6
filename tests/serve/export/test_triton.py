"""`zoo export --format triton`: valid for Triton's own definitions, atomic, and careful with existing folders."""

import os
import threading

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from starlette.testclient import TestClient
from tritonclient import http as triton
from tritonclient.grpc import model_config_pb2

import zoo
from serve.export import formats
from serve.export.triton import MAX_BATCH, files
from serve.server.app import build
from serve.service.settings import Settings
from tests.support.paths import add_model
from zoo.errors import ExportError
from zoo.model import onnx_bytes

NOTES = "mnist14k.notes"
DATATYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}


def read_config(folder):
    config = text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    return config, {entry.name: entry for entry in [*config.input, *config.output]}


def datatype(entry):
    return model_config_pb2.DataType.Name(entry.data_type)


def export(run, *names, to, force=False):
    return run("export", *names, "--format", "triton", "--to", to, *(["--force"] if force else []))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All shipped models, exported."""
    folder = tmp_path_factory.mktemp("repo")
    for card in zoo.list_models():
        model = zoo.load(card.name, "cpu")
        formats.write_folder(folder / card.name, files(model.card, onnx_bytes(model)))
    return folder


def test_every_model_has_a_valid_configuration(everything):
    for card in zoo.list_models():
        config, tensors = read_config(everything / card.name)
        assert (config.name, config.backend) == (card.name, "onnxruntime")
        assert config.default_model_filename == "model.onnx"
        assert config.max_batch_size == MAX_BATCH
        assert list(tensors["image"].dims) == list(card.input.shape)
        assert config.HasField("dynamic_batching")
        assert config.parameters["intra_op_thread_count"].string_value == "1"
        (group,) = config.instance_group
        assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_CPU)
        assert [warmup.batch_size for warmup in config.model_warmup] == [1, 16]
        for warmup in config.model_warmup:
            assert list(warmup.inputs["image"].dims) == list(card.input.shape)
            assert warmup.inputs["image"].zero_data
        for name in ("logits", "probabilities"):
            labels = (everything / card.name / tensors[name].label_filename).read_text(encoding="utf-8").splitlines()
            assert tuple(labels) == card.labels


def shape_in_file(tensor):
    """The shape of one image's values in the ONNX file: Triton adds a dimension to single numbers."""
    return list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


def scores_of(session, images):
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": images}), strict=True))


def test_configuration_agrees_with_the_onnx_file(everything):
    """What Triton's backend checks: same names and types, and the shapes of the configuration behind a free first."""
    for card in zoo.list_models():
        session = onnxruntime.InferenceSession(everything / card.name / "1" / "model.onnx")
        _, tensors = read_config(everything / card.name)
        declared = [*session.get_inputs(), *session.get_outputs()]
        assert {value.name for value in declared} == set(tensors)
        for value in declared:
            assert DATATYPES[value.type] == datatype(tensors[value.name])
            first, *others = value.shape
            assert not isinstance(first, int)
            assert others == shape_in_file(tensors[value.name])
        images = np.zeros((3, *card.input.shape), np.uint8)
        for name, values in scores_of(session, images).items():
            assert values.shape == (3, *shape_in_file(tensors[name]))


def test_requests_for_triton_get_the_same_tensors_from_our_server(everything, tmp_path, run):
    """A request as Triton's client makes it from the configuration: names, types and shapes agree, and the values."""
    config, tensors = read_config(everything / NOTES)
    images = np.random.default_rng(1).integers(0, 256, (5, *tensors["image"].dims), np.uint8)
    entry = triton.InferInput("image", list(images.shape), datatype(tensors["image"]).removeprefix("TYPE_"))
    entry.set_data_from_numpy(images)
    outputs = [triton.InferRequestedOutput(output.name) for output in config.output]
    body, json_size = triton.InferenceServerClient.generate_request_body([entry], outputs=outputs)
    settings = Settings(models=NOTES, demo=False, access_log=False, folder=str(tmp_path))
    with TestClient(build(settings), "http://127.0.0.1") as client:
        answer = client.post(
            f"/v2/models/{config.name}/infer", content=body, headers={"Inference-Header-Content-Length": str(json_size)}
        )
        metadata = client.get(f"/v2/models/{config.name}").json()
    length = int(answer.headers["Inference-Header-Content-Length"])
    result = triton.InferenceServerClient.parse_response_body(answer.content, header_length=length)
    session = onnxruntime.InferenceSession(everything / NOTES / "1" / "model.onnx")
    expected = scores_of(session, images)
    assert [output["name"] for output in result.get_response()["outputs"]] == [output.name for output in config.output]
    for output in config.output:
        values = result.as_numpy(output.name)
        assert values.shape == (5, *shape_in_file(output))
        assert np.array_equal(values, expected[output.name])
    ours = {entry["name"]: entry for entry in (*metadata["inputs"], *metadata["outputs"])}
    for name, entry in tensors.items():
        assert ours[name]["datatype"] == datatype(entry).removeprefix("TYPE_")
        assert ours[name]["shape"] == [-1, *shape_in_file(entry)]


def test_command_writes_what_the_registry_has(run, tmp_path):
    code, out, err = export(run, "mnist14k*", "cifar90k", to=tmp_path / "repo")
    assert (code, err) == (0, "")
    names = [card.name for card in zoo.list_models("mnist14k*")] + ["cifar90k.plus"]
    assert out.split() == [str(tmp_path / "repo" / name) for name in names]
    assert sorted(os.listdir(tmp_path / "repo")) == sorted(names)
    shipped = (zoo.registry.SHIPPED_FOLDER / NOTES / "model.onnx").read_bytes()
    assert (tmp_path / "repo" / NOTES / "1" / "model.onnx").read_bytes() == shipped


def test_existing_models_are_replaced_only_with_force(run, tmp_path):
    export(run, NOTES, to=tmp_path)
    config = tmp_path / NOTES / "config.pbtxt"
    config.write_text("changed")
    (tmp_path / NOTES / "2").mkdir()
    code, _, err = export(run, NOTES, "cifar90k", to=tmp_path)
    assert code == 2
    assert "--force" in err
    assert config.read_text() == "changed"
    assert os.listdir(tmp_path) == [NOTES]  # nothing was written, not even the model that has no folder yet
    code, _, _ = export(run, NOTES, to=tmp_path, force=True)
    assert code == 0
    assert read_config(tmp_path / NOTES)[0].name == NOTES
    assert sorted(os.listdir(tmp_path / NOTES)) == ["1", "config.pbtxt", "labels.txt"]
    assert os.listdir(tmp_path) == [NOTES]


def test_force_replaces_only_exported_models(run, tmp_path):
    """A folder of something else, and a link, stay as they are."""
    (tmp_path / NOTES).mkdir()
    (tmp_path / NOTES / "thesis.tex").write_text("years of work")
    other = tmp_path / "other"
    export(run, NOTES, to=other)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / NOTES).symlink_to(other / NOTES)
    for folder in (tmp_path, tmp_path / "links"):
        code, _, err = export(run, NOTES, to=folder, force=True)
        assert code == 2
        assert "is not an exported model" in err
    assert (tmp_path / NOTES / "thesis.tex").read_text() == "years of work"
    assert (other / NOTES / "config.pbtxt").exists()


def test_failed_write_leaves_the_old_model(tmp_path, monkeypatch):
    folder = tmp_path / "a.b"
    formats.write_folder(folder, {"config.pbtxt": b"old"})
    rename, calls = os.rename, []

    def fail_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(OSError, match="No space"):
        formats.write_folder(folder, {"config.pbtxt": b"new"})
    monkeypatch.undo()
    assert (folder / "config.pbtxt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.b"]


def test_readers_see_whole_folders_only(tmp_path):
    """While one thread replaces a model, another one reads both of its files: always of one version, or absent."""
    folder, done, mixed = tmp_path / "a.b", threading.Event(), []

    def read():
        while not done.is_set():
            try:
                descriptor = os.open(folder, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                files = [os.open(name, os.O_RDONLY, dir_fd=descriptor) for name in ("x", "y")]
                contents = [os.read(file, 10) for file in files]
                mixed.append(contents[0] != contents[1])
                for file in files:
                    os.close(file)
            except FileNotFoundError:
                pass  # replaced and removed meanwhile
            finally:
                os.close(descriptor)

    thread = threading.Thread(target=read)
    formats.write_folder(folder, {"x": b"0", "y": b"0"})
    thread.start()
    for number in range(50):
        formats.write_folder(folder, dict.fromkeys("xy", str(number).encode()))
    done.set()
    thread.join()
    assert mixed
    assert not any(mixed)


def test_clear_errors(run, tmp_path, empty_home):
    code, _, err = export(run, "mnst14k", to=tmp_path)
    assert (code, "Did you mean" in err) == (3, True)
    code, _, err = export(run, "nothing*", to=tmp_path)
    assert code == 3
    (tmp_path / "file").write_text("")
    code, _, err = export(run, NOTES, to=tmp_path / "file")
    assert (code, "is not a folder" in err) == (2, True)
    code, _, err = export(run, NOTES, to="/proc/nothing")
    assert (code, "Cannot write to /proc/nothing" in err) == (1, True)
    code, _, err = run("export", NOTES, "--format", "nothing", "--to", tmp_path)
    assert (code, "triton" in err) == (2, True)
    damaged = add_model(empty_home, "own.bad")
    (damaged / "model.onnx").write_bytes(b"x")
    code, _, err = export(run, "own.bad", to=tmp_path / "out")
    assert (code, "own.bad" in err) == (3, True)
    assert not (tmp_path / "out").exists()


def test_models_of_the_user_and_paths(run, tmp_path, empty_home):
    labels = ['"quoted"', "back\\slash", "naïve café", "日本語", "7 'x'", "#", "a b", "8", "9", "0"]
    folder = add_model(empty_home, "own.new", labels=labels, version='1"\\n')
    code, _, _ = export(run, "own.*", to=tmp_path / "one")
    assert code == 0
    config, _ = read_config(tmp_path / "one" / "own.new")
    assert config.parameters["pocketzoo_version"].string_value == '1"\\n'
    assert (tmp_path / "one" / "own.new" / "labels.txt").read_text(encoding="utf-8").split("\n")[:-1] == labels
    code, _, _ = export(run, folder / "model.onnx", to=tmp_path / "two")
    assert code == 0
    assert (tmp_path / "two" / "own.new" / "config.pbtxt").read_bytes() == (
        tmp_path / "one" / "own.new" / "config.pbtxt"
    ).read_bytes()
    code, _, err = export(run, folder / "model.onnx", "own.new", to=tmp_path / "three")
    assert (code, "Two of the models" in err) == (2, True)


def test_name_that_triton_rejects(run, tmp_path, empty_home):
    add_model(empty_home, "own..new")
    code, _, err = export(run, "own..new", to=tmp_path)
    assert (code, "'..'" in err) == (1, True)
    with pytest.raises(ExportError):
        files(zoo.load("own..new", "cpu").card, b"")
