"""A look inside: values as PyTorch computes them, receptive fields that are what matters, and the pictures."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from train import networks, recipe
from train.evaluate import network_input
from zoo import registry
from zoo.errors import BadInput, ZooError
from zoo.inspect import look_inside, parse_unit, pixels_seen, unit_of
from zoo.pictures import write_pictures


@pytest.fixture(scope="module")
def inside():
    from tests.made_up import REPOSITORY

    return look_inside("mnist14k", REPOSITORY / "examples" / "five.jpg")


def test_feature_maps_are_those_of_pytorch(inside):
    found = recipe.find("mnist14k")
    network = networks.build(found).eval()
    network.load_state_dict(load_file(registry.find("mnist14k").folder / "model.safetensors"))
    values, expected = network_input(torch.from_numpy(inside.seen[None]), found), []
    with torch.inference_mode():
        for layer in network:
            values = layer(values)
            if isinstance(layer, (torch.nn.ReLU, torch.nn.MaxPool2d)):
                expected.append(values[0].clone().numpy())
    assert len(inside.stages) == 9
    for stage, maps in zip(inside.stages[:-1], expected, strict=True):
        assert stage.values.shape == stage.layer.output
        np.testing.assert_allclose(stage.values, maps, atol=1e-3)
    assert inside.card.labels[inside.probabilities.argmax()] == "5"
    assert inside.stages[0].kernels.shape == (16, 1, 3, 3)
    assert inside.stages[2].kernels is None


@pytest.mark.parametrize("index", range(9))
def test_a_unit_depends_on_the_pixels_of_its_field_and_on_no_other(inside, index):
    """Noise outside of the field changes nothing; noise inside changes the unit's values."""
    stage = inside.stages[index]
    row, column = unit_of(stage)
    top, left, bottom, right = pixels_seen(inside, stage, row, column)
    noise = np.random.default_rng(index).integers(0, 256, inside.seen.shape, dtype=np.uint8)
    outside, within = noise.copy(), inside.seen.copy()
    outside[top:bottom, left:right] = inside.seen[top:bottom, left:right]
    within[top:bottom, left:right] = noise[top:bottom, left:right]
    assert (bottom - top, right - left) == (stage.layer.receptive_field,) * 2

    def unit(picture):
        return run_stages(picture)[index][:, row, column]

    before = run_stages(inside.seen)[index][:, row, column]
    np.testing.assert_allclose(unit(outside), before, atol=1e-4)
    assert np.abs(unit(within) - before).max() > 1e-3


def run_stages(picture):
    """The stages' values of a picture that is already in the network's form, however little it looks like a digit."""
    from unittest import mock

    with mock.patch("zoo.inspect.prepare", lambda source, expected: (source, ())):
        return [stage.values for stage in look_inside("mnist14k", picture).stages]


def test_pictures(inside, tmp_path):
    from PIL import Image

    paths = write_pictures(inside, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == sorted(path.name for path in paths)
    assert len(paths) == 12
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 150
            assert np.asarray(picture).std() > 10


def test_units(inside, tmp_path):
    assert parse_unit("conv4:3,5") == ("conv4", 3, 5)
    for text in ("conv4", "conv4:3", "conv4:3,x", "conv4:-1,2"):
        with pytest.raises(BadInput, match="such as conv4:3,5"):
            parse_unit(text)
    with pytest.raises(BadInput, match="0,0 to 9,9; 3,10 is outside"):
        write_pictures(inside, tmp_path, ("conv4", 3, 10))
    with pytest.raises(BadInput, match=r"no layer 'conv99': there are conv1, conv2, pool1"):
        write_pictures(inside, tmp_path, ("conv99", 0, 0))
    assert len(write_pictures(inside, tmp_path, ("conv4", 0, 0))) == 12


def test_without_matplotlib(monkeypatch, tmp_path, inside):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ZooError, match=r"Drawing needs matplotlib.*pip install 'pocketzoo\[inspect\]'"):
        write_pictures(inside, tmp_path)


def test_without_onnx(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ZooError, match=r"pip install 'pocketzoo\[inspect\]'"):
        look_inside("mnist14k", b"")
