"""Training on the CPU: learning, resuming to the bit, run folders, augmentation, and refusals."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.support.examples import RECIPE, REPOSITORY, heed_ctrl_c, quiet, stripes
from train import augment, loop, precision
from train.data import held_out_data, training_data
from train.loop import Average, TrainingJob, fit
from train.progress import Progress
from train.report import draw
from train.runs import Run
from zoo.errors import RunError

pytestmark = pytest.mark.slow


class Interrupted(Progress):
    """Raises KeyboardInterrupt in the middle of an epoch."""

    def __init__(self, at_epoch):
        super().__init__("interrupted", live=False)
        self.at_epoch = at_epoch

    def step(self, epoch, *rest):
        if epoch == self.at_epoch and rest[1] > 128:
            raise KeyboardInterrupt


def job(kind="full", **changes):
    return TrainingJob(**{"recipe": RECIPE, "kind": kind, "seed": 7, "epochs": 3, "threads": 1} | changes)


def train(run, resume=False, progress=None, kind="full", restart=False, **changes):
    return fit(job(kind, **changes), run, stripes(640, 1), stripes(200, 2), progress or quiet(), resume, restart)


def same_weights(first, second):
    one, other = load_file(first.weights), load_file(second.weights)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def blue_pixels(path):
    """Count the pixels of a plot that belong to blue curves."""
    red, _, blue = np.asarray(Image.open(path).convert("RGB")).astype(int).transpose(2, 0, 1)
    return int((blue - red > 100).sum())


@pytest.fixture
def whole(tmp_path):
    """A finished run of three epochs."""
    run = Run(tmp_path / "whole")
    train(run)
    return run


@pytest.mark.parametrize("at_epoch", [0, 1, 2])
def test_resumed_run_has_the_same_weights_to_the_bit(whole, tmp_path, at_epoch):
    run = Run(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        train(run, progress=Interrupted(at_epoch))
    train(run, resume=True)
    assert same_weights(run, whole)
    assert [line["epoch"] for line in run.metrics()] == [1, 2, 3]
    losses = [[line["train_loss"] for line in each.metrics()] for each in (run, whole)]
    assert losses[0] == losses[1]


def test_seed_determines_the_weights(whole, tmp_path):
    train(Run(tmp_path / "again"))
    train(Run(tmp_path / "other"), seed=8)
    assert same_weights(Run(tmp_path / "again"), whole)
    assert not same_weights(Run(tmp_path / "other"), whole)


def test_bfloat16_steps_learn_with_float32_weights(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)  # emulated if the processor has none
    recipe, broken = replace(RECIPE, precision="bfloat16"), Run(tmp_path / "broken")
    quick = replace(recipe, augment=(), keras_defaults=False)
    assert train(Run(tmp_path / "run"), kind="calibration", recipe=quick, epochs=6)["accuracy"] > 0.9
    with pytest.raises(KeyboardInterrupt):
        train(broken, recipe=recipe, progress=Interrupted(1))
    train(broken, recipe=recipe, resume=True)
    train(Run(tmp_path / "other"), recipe=recipe)
    assert same_weights(broken, Run(tmp_path / "other"))
    assert not same_weights(broken, whole)
    assert all(value.dtype in (torch.float32, torch.int64) for value in load_file(broken.weights).values())
    assert "precision" not in RECIPE.settings()  # so that older cards and runs still agree
    assert recipe.settings()["precision"] == "bfloat16"


def test_bfloat16_recipe_falls_back_to_float32(whole, tmp_path, monkeypatch, capsys):
    recipe, run = replace(RECIPE, precision="bfloat16"), Run(tmp_path / "run")
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    train(run, recipe=recipe)
    assert same_weights(run, whole)
    assert run.read("environment")["precision"] == whole.read("environment")["precision"] == "float32"
    run.check_settings(recipe.settings())
    assert "has no bfloat16; training in float32" in capsys.readouterr().err


@pytest.mark.parametrize("first_has_bfloat16", [True, False])
def test_resumed_run_keeps_its_precision(tmp_path, monkeypatch, capsys, first_has_bfloat16):
    recipe, broken, whole = replace(RECIPE, precision="bfloat16"), Run(tmp_path / "broken"), Run(tmp_path / "whole")
    monkeypatch.setattr(precision, "has_bfloat16", lambda: first_has_bfloat16)
    train(whole, recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        train(broken, recipe=recipe, progress=Interrupted(1))
    monkeypatch.setattr(precision, "has_bfloat16", lambda: not first_has_bfloat16)
    train(broken, recipe=recipe, resume=True)
    assert same_weights(broken, whole)
    first, second = ("bfloat16", "float32") if first_has_bfloat16 else ("float32", "bfloat16")
    assert f"continues in {first}; {second} is faster" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_f": True, "avx512_bf16": False}, False), ({"avx512_bf16": True}, True), ({}, False)],
)
def test_has_bfloat16_follows_processor_capabilities(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision.has_bfloat16() == expected
    recipe = replace(RECIPE, precision="bfloat16")
    assert precision.on_this_processor(recipe).precision == ("bfloat16" if expected else "float32")
    assert precision.on_this_processor(RECIPE) is RECIPE


def test_average_is_measured_shipped_and_resumed(tmp_path, monkeypatch):
    recipe, broken, run = replace(RECIPE, ema=0.9), Run(tmp_path / "broken"), Run(tmp_path / "run")
    averages = []
    monkeypatch.setattr(loop, "Average", lambda *args: averages.append(Average(*args)) or averages[-1])
    train(run, recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        train(broken, recipe=recipe, progress=Interrupted(1))
    train(broken, recipe=recipe, resume=True)
    assert same_weights(broken, run)
    shipped, checkpoint = load_file(run.weights), load_file(run.checkpoint)
    for key, value in averages[0].module.state_dict().items():
        assert torch.equal(shipped[key], value)
        assert torch.equal(checkpoint[f"average.module.{key}"], value)
    assert not torch.equal(shipped["0.weight"], checkpoint["network.0.weight"])


def test_average_matches_its_formula():
    layer = torch.nn.Linear(1, 1)
    average = Average(layer, 0.9)
    expected = [1.0]
    for step in range(1, 200):
        decay = min(0.9, (1 + step) / (10 + step))
        expected.append(decay * expected[-1] + (1 - decay) * (step % 7))
    for step in range(200):
        torch.nn.init.constant_(layer.weight, step % 7 if step else 1.0)
        average.update_parameters(layer)
        assert average.module.weight.item() == pytest.approx(expected[step], rel=1e-4)


def test_run_learns_and_writes_its_files(tmp_path, capsys):
    run = Run(tmp_path / "run")
    result = train(run, kind="calibration", recipe=replace(RECIPE, augment=(), keras_defaults=False), epochs=6)
    assert result["accuracy"] > 0.9
    assert run.read("result") == result
    assert run.read("config")["schedule"] == {"kind": "InverseTime", "initial": 0.003, "decay": 0.319}
    assert run.read("environment")["torch"] == torch.__version__
    lines = run.metrics()
    assert len(lines) == 6
    assert lines[-1]["validation_accuracy"] == result["accuracy"]
    assert lines[1]["learning_rate"] == pytest.approx(0.0022744503)
    assert capsys.readouterr().err.count("images/s") == 6
    draw(run)
    assert blue_pixels(run.folder / "curves.png") > 500  # the validation curves


@pytest.mark.parametrize(("kind", "reads"), [("full", 1), ("calibration", 4)])
def test_full_run_reads_the_test_set_once(tmp_path, monkeypatch, kind, reads):
    measured, logits = [], loop.logits
    monkeypatch.setattr(loop, "logits", lambda *args: measured.append(1) or logits(*args))
    run = Run(tmp_path / "run")
    train(run, kind=kind)
    assert len(measured) == reads  # a calibration run is measured after each of its three epochs too
    assert run.read("result")["measured_on"] == "made up"


def test_restart_deletes_the_old_run(whole):
    with pytest.raises(KeyboardInterrupt):
        train(whole, progress=Interrupted(0), seed=8, restart=True)
    files = {path.name for path in whole.folder.iterdir()}
    assert files == {"checkpoint.safetensors", "config.json", "environment.json"}


def test_metrics_ignore_an_incomplete_line(whole):
    with whole.metrics_file.open("a") as file:
        file.write('{"epoch": 4, "train_l')
    assert [line["epoch"] for line in whole.metrics()] == [1, 2, 3]


def test_run_folders_by_kind_and_seed(tmp_path):
    folders = [Run.of("a.b", kind, seed, tmp_path).folder.name for kind in ("full", "calibration") for seed in (0, 3)]
    assert folders == ["seed0", "seed3", "calibration", "calibration3"]


def test_run_refuses_unsuitable_folders(whole, tmp_path):
    with pytest.raises(RunError, match=r"already contains a run.*--resume.*--restart"):
        train(whole)
    with pytest.raises(RunError, match="seed was 7, now 8"):
        train(whole, resume=True, seed=8)
    with pytest.raises(RunError, match=r"no checkpoint.*Omit --resume"):
        train(Run(tmp_path / "nothing"), resume=True)


def test_live_bar_shows_loss_accuracy_and_rate(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    with Progress("title", live=True) as progress:
        progress.step(0, 4, 500, 1000, 0.25, 0.875)
        progress.epoch_done({})
    bar = capsys.readouterr().err
    for text in ("title", "epoch 1/4", "loss 0.2500", "accuracy 87.50%", "images/s"):
        assert text in bar


def test_shift_stays_within_its_range():
    images = torch.zeros(200, 9, 9, 1, dtype=torch.uint8)
    images[:, 4, 4] = 255
    moved = augment.shift(images, 0.0, torch.Generator().manual_seed(0), pixels=2)
    rows, columns = (moved[:, :, :, 0] == 255).nonzero()[:, 1:].T
    assert moved.sum() == images.sum()
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4, 5, 6}


def test_shift_repeats_the_border():
    images = torch.full((50, 5, 5, 3), 9, dtype=torch.uint8)
    assert torch.equal(augment.shift(images, 0.0, torch.Generator().manual_seed(0), pixels=2), images)


def test_flip_mirrors_half_of_the_images():
    images = torch.arange(6, dtype=torch.uint8).view(1, 1, 6, 1).repeat(1000, 1, 1, 1)
    flipped = augment.flip(images, 0.0, torch.Generator().manual_seed(0))
    mirrored = (flipped[:, 0, 0, 0] == 5).double().mean().item()
    assert mirrored == pytest.approx(0.5, abs=0.06)
    assert torch.equal(flipped.sort(2).values, images)


AFFINE = {"degrees": 0.0, "scale": 0.0, "shear": 0.0, "pixels": 0.0, "fade": 0.25}


def moved(done=0.0, n=500, **amounts):
    """Return how far the centre of a bright square moves, rows and columns in pixels, `(N, 2)`."""
    images = torch.zeros(n, 28, 28, 1, dtype=torch.uint8)
    images[:, 5:9, 18:22] = 200
    result = augment.affine(images, done, torch.Generator().manual_seed(0), **AFFINE | amounts)
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    weight = result.double()[..., 0] / result.double().sum((1, 2, 3))[:, None, None]
    position = torch.arange(28).double()
    return torch.stack([(weight.sum(2) * position).sum(1) - 6.5, (weight.sum(1) * position).sum(1) - 19.5], 1)


def test_affine_draws_amounts_per_image():
    shifted = moved(pixels=2.0)
    assert shifted.abs().max() <= 2.05
    assert shifted.std(0).tolist() == pytest.approx([2 / 3**0.5] * 2, abs=0.1)  # uniform
    rotated = moved(degrees=10.0)  # the square is 7 above and 6 right of the centre, so 10 degrees are 1.6 pixels
    assert rotated.norm(dim=1).max() == pytest.approx(1.6, abs=0.1)
    scaled = moved(scale=0.1)
    assert scaled.abs().amax(0).tolist() == pytest.approx([0.7, 0.6], abs=0.1)
    sheared = moved(shear=0.1)
    assert sheared.abs().amax(0).tolist() == pytest.approx([0.0, 0.7], abs=0.1)


def test_affine_bend_is_smooth_and_local():
    bent = moved(bend=2.0)
    assert 0.5 < bent.std().item() < 2 / 3**0.5  # less than at a control point: the square is between four
    assert bent.mean(0).abs().max() < 0.2
    straight = torch.zeros(200, 28, 28, 1, dtype=torch.uint8)
    straight[:, :, 13:15] = 200
    result = augment.affine(straight, 0.0, torch.Generator().manual_seed(0), **AFFINE | {"bend": 2.0})
    stroke = result[:, 4:24, :, 0].double()
    columns = (stroke * torch.arange(28)).sum(2) / stroke.sum(2)
    assert (columns[:, 0] - columns[:, -1]).abs().mean() > 0.5  # its ends move independently
    assert columns.diff(dim=1).abs().max() < 1.2  # the stroke does not break


def test_affine_fades_out_at_the_end():
    assert moved(done=0.75, pixels=2.0).std().item() == pytest.approx(moved(pixels=2.0).std().item())
    assert moved(done=0.875, pixels=2.0).std().item() == pytest.approx(moved(pixels=2.0).std().item() / 2, rel=0.05)
    images = torch.randint(0, 256, (50, 28, 28, 1), dtype=torch.uint8)
    amounts = AFFINE | {"degrees": 10.0, "scale": 0.1, "shear": 0.1, "pixels": 2.0, "bend": 2.0}
    assert torch.equal(augment.affine(images, 1.0, torch.Generator(), **amounts), images)


def toned(value, done=0.0, contrast=0.0, light=0.0):
    images = torch.full((500, 28, 28, 1), value, dtype=torch.uint8)
    result = augment.tone(images, done, torch.Generator().manual_seed(0), contrast=contrast, light=light, fade=0.25)
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    return result.double()


def test_tone_reduces_contrast_and_adds_light():
    paler = toned(200, contrast=0.5)
    assert torch.equal(paler.amin((1, 2, 3)), paler.amax((1, 2, 3)))  # uniform within an image
    assert (paler.min().item(), paler.max().item()) == pytest.approx((100, 200), abs=2)
    assert paler.mean().item() == pytest.approx(150, abs=3)
    lit = toned(0, light=0.4)
    assert lit.max().item() == pytest.approx(0.4 * 255, abs=4)
    assert lit.mean().item() == pytest.approx(0.1 * 255, abs=1)  # product of two draws with mean 0.5
    assert lit.diff(dim=1).abs().max() <= 0.4 * 255 / 13.5 + 1  # smooth
    assert lit.std((1, 2, 3)).mean() > 3  # uneven
    assert toned(250, light=1.0).max() == 255
    assert torch.equal(toned(9, done=1.0, contrast=0.5, light=0.5), toned(9))


def noisy(value, done=0.0, sd=0.2):
    images = torch.full((500, 28, 28, 1), value, dtype=torch.uint8)
    result = augment.noise(images, done, torch.Generator().manual_seed(0), sd=sd, fade=0.25)
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    return result.double()


def test_noise_draws_its_strength_per_image():
    sds = (noisy(128) - 128).std((1, 2, 3)) / 255
    assert (sds.min().item(), sds.max().item()) == pytest.approx((0, 0.2), abs=0.01)
    assert sds.mean().item() == pytest.approx(0.1, abs=0.01)
    assert (noisy(128) - 128).mean().item() == pytest.approx(0, abs=0.5)
    assert (noisy(0, sd=1.0).min(), noisy(255, sd=1.0).max()) == (0, 255)  # clipped, not wrapped around
    assert noisy(0, sd=0.2).mean().item() == pytest.approx(0.1 * 255 / (2 * math.pi) ** 0.5, rel=0.1)  # half is cut off
    late = (noisy(128, done=0.875) - 128).std((1, 2, 3)) / 255
    assert late.mean().item() == pytest.approx(0.05, abs=0.01)
    assert torch.equal(noisy(9, done=1.0), torch.full((500, 28, 28, 1), 9.0).double())


def test_validation_split_is_disjoint_and_complete(data_folder):
    training, validation = (
        training_data("mnist", "calibration", data_folder),
        held_out_data("mnist", "calibration", data_folder),
    )
    assert (len(training), len(validation)) == (55_000, 5_000)
    assert (training.name, validation.name) == ("train", "validation")
    everything = training_data("mnist", "full", data_folder)
    both = torch.cat([training.images, validation.images]).view(60_000, -1).long()
    weights = torch.arange(784) + 1  # for a checksum per image: together, both parts contain each image once
    sums = [(images @ weights).sort().values for images in (both, everything.images.view(60_000, -1).long())]
    assert torch.equal(*sums)
    assert torch.bincount(validation.labels).min() > 400
    assert held_out_data("mnist", "full", data_folder).name == "test"


def test_ctrl_c_leaves_a_checkpoint(data_folder, tmp_path):
    command = [sys.executable, "-m", "train", "mnist14k.notes", "--epochs", "1", "--runs", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--data", data_folder], stderr=subprocess.PIPE, cwd=REPOSITORY, preexec_fn=heed_ctrl_c
    )
    checkpoint = tmp_path / "mnist14k.notes" / "seed0" / "checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"--resume" in stderr
    assert b"Traceback" not in stderr
    assert b"Warning" not in stderr
    content = checkpoint.read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert metadata["__metadata__"] == {"epoch": "0"}
