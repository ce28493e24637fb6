"""The whole way: a folder -> a registered model that predicts, is verified, evaluated and served."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import zoo
from tests.support.command import run  # noqa: F401
from tests.train.fit.test_data import write
from train import networks
from train.evaluate import fit_temperature, network_input
from train.fit import initial, plan
from train.fit import run as fitting
from train.fit.data import read
from zoo import registry
from zoo.errors import RunError, WrongUsage
from zoo.loading import model_file
from zoo.model import Model
from zoo.verify import verify


@pytest.fixture
def folder(tmp_path):
    for label, tint in (("red", 0), ("blue", 2)):
        write(tmp_path / "set", label, 30)
        for path in (tmp_path / "set" / label).glob("*.png"):
            from PIL import Image

            pixels = np.asarray(Image.open(path)) // 3
            pixels[..., tint] += 150
            Image.fromarray(pixels).save(path)
    return tmp_path / "set"


@pytest.mark.slow
def test_fit_to_prediction(empty_home, folder, run):  # noqa: F811
    messages = []
    card = zoo.fit(folder, "mine", epochs=3, threads=1, say=messages.append)
    assert card.labels == ("blue", "red")
    assert card.dataset.images == {"train": 46, "validation": 6, "test": 8}
    assert len(card.dataset.sha256) == 64
    assert any("test images" in message for message in messages)
    assert zoo.load("mine").predict(folder / "red" / "0.png").model == "mine"
    assert all(check.passed is not False for check in verify(registry.find("mine")))
    report = (empty_home / "runs" / "mine" / "calibration" / "report.html").read_text()
    assert "Worst mistakes" in report
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "<script" not in report
    assert zoo.evaluate("mine", folder).images == 60
    code, _, err = run("fit", folder, "--name", "mine")
    assert code == 2
    assert "exists" in err
    code, out, _ = run("predict", folder / "red" / "0.png", "--model", "mine", "--format", "jsonl")
    assert code == 0
    assert json.loads(out)["model"] == "mine"


@pytest.mark.slow
def test_an_interrupted_training_is_resumed_to_the_same_weights(empty_home, folder, monkeypatch):
    whole = zoo.fit(folder, "whole", epochs=2, threads=1, seed=3)

    def interrupt(self, line):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("train.progress.Progress.epoch_done", interrupt)
        with pytest.raises(KeyboardInterrupt):
            zoo.fit(folder, "parts", epochs=2, threads=1, seed=3, progress=True)
    with pytest.raises(RunError, match=r"--resume .* --replace"):
        zoo.fit(folder, "parts", seed=3)
    moved = (folder / "red" / "0.png").rename(folder.parent / "0.png")
    with pytest.raises(RunError, match=r"images in .* are not those .*--replace"):
        zoo.fit(folder, "parts", seed=3, resume=True)
    moved.rename(folder / "red" / "0.png")
    resumed = zoo.fit(folder, "parts", seed=3, resume=True)
    assert whole.file("model.safetensors").sha256 == resumed.file("model.safetensors").sha256


@pytest.mark.parametrize(
    ("counts", "flip", "warned"),
    [
        ([[8, 2, 0], [3, 7, 0], [0, 0, 10]], True, True),
        ([[8, 2, 0], [3, 7, 0], [0, 0, 10]], False, False),  # not trained on mirror images
        ([[8, 2, 0], [0, 10, 0], [0, 0, 10]], True, False),  # one way only
        ([[2, 1, 0], [1, 2, 0], [0, 0, 3]], True, False),  # one mistake each way in small classes
        ([[0, 0, 0], [3, 7, 0], [0, 0, 10]], True, False),  # a class without validation images
    ],
)
def test_mirror_images_are_suspected_by_validation_mistakes(folder, counts, flip, warned):
    recipe = replace(plan.recipe("mine", read(folder, 0), None, False), augment=plan.augmentation(32, 3, flip))
    warnings = fitting._warnings(torch.tensor(counts), ("left", "right", "up"), recipe)
    assert [("left and right" in text, "--no-flip" in text) for text in warnings] == [(True, True)] * warned


@pytest.mark.parametrize(("images", "classes"), [(6, 2), (24, 4), (200, 10)])
def test_temperature_of_a_faultless_validation_claims_no_certainty(images, classes):
    """The mean probability of the label is (n + 1) / (n + 2) where all n images are classified alike."""
    labels = torch.arange(images) % classes
    scores = 5.0 * torch.nn.functional.one_hot(labels, classes)
    temperature = fit_temperature(scores, labels, fitting._smoothing(images, classes))
    assert (scores / temperature).softmax(1).amax(1).mean().item() == pytest.approx((images + 1) / (images + 2), 1e-4)


@pytest.mark.parametrize(
    "option",
    [{"minutes": float("nan")}, {"minutes": 0}, {"minutes": float("inf")}, {"epochs": 0}, {"threads": 0}, {"seed": -1}],
)
def test_numbers_out_of_range_are_refused_before_images_are_read(empty_home, option):
    with pytest.raises(WrongUsage, match="cannot be"):
        zoo.fit("no such folder", "mine", **option)


def test_names_that_cannot_be_used(empty_home, folder):
    for name in ("mnist14k", "mnist14k.plus", "a/b", ".hidden"):
        with pytest.raises(WrongUsage):
            zoo.fit(folder, name)
    with pytest.raises(WrongUsage, match="arch"):
        zoo.fit(folder, "mine", arch="vgg")
    with pytest.raises(WrongUsage, match="grey"):
        zoo.fit(folder, "mine", arch="mnist14k")
    with pytest.raises(WrongUsage, match="--from"):
        zoo.fit(folder, "mine", initial="cifar90k.plus", size=64)


def test_initial_weights_give_the_function_of_the_other_model(folder):
    """With as many classes as the other model, the network computes the other model's logits, in training mode too."""
    options = fitting.FitOptions(initial="cifar90k.plus")
    data, recipe, content = fitting.prepare(folder, "mine", options)
    from dataclasses import replace

    recipe = replace(recipe, network_options={**recipe.network_options, "classes": 10})
    network = networks.build(recipe)
    images = data.part("train").images
    assert initial.load(network, content, recipe, images) == 34  # all tensors "….weight" of the file
    expected = Model(model_file("cifar90k.plus").content, "cpu").run(images.numpy()).logits
    with torch.no_grad():
        np.testing.assert_allclose(network.eval()(network_input(images, recipe)).numpy(), expected, atol=1e-2)
        trained = network.train()(network_input(images, recipe)).numpy()
    assert (trained.argmax(1) == expected.argmax(1)).mean() > 0.9


@pytest.mark.parametrize("architecture", ["cifar90k", "resnet8"])
def test_recipes_build_networks_for_the_images(folder, architecture):
    for size in plan.SIZES:
        data = read(folder, 0, size)
        recipe = plan.recipe("mine", data, architecture, flip=True)
        with torch.no_grad():
            scores = networks.build(recipe).eval()(network_input(data.part("validation").images, recipe))
        assert scores.shape == (6, 2)


@pytest.mark.slow
def test_a_folder_with_the_users_own_train_py(empty_home, folder, tmp_path):
    (tmp_path / "train.py").write_text("raise SystemExit('the user\\'s script ran')")
    command = [sys.executable, "-m", "serve.cli", "fit", str(folder), "--name", "a/b"]
    import os

    from tests.support.paths import REPOSITORY

    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 2
    assert "'a/b' is not a valid model name" in done.stderr


def test_without_torch_the_extra_is_named(monkeypatch, folder):
    for name in [name for name in sys.modules if name == "train.fit.run"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "train.export", None)
    with pytest.raises(WrongUsage, match=r"pocketzoo\[cpu,train\]"):
        zoo.fit(folder, "mine")
