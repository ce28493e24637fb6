"""Photographs of any size and shape are brought into a network's form."""

from dataclasses import replace

import numpy as np
import pytest
from skimage import data

import zoo
from zoo.card import Input
from zoo.errors import BadInput
from zoo.images.photos import fit_to_input
from zoo.images.prepare import prepare
from zoo.model import Model

CIFAR = Input(32, 32, 3, "photo")


def solid(height, width, colour=(200, 10, 30)):
    return np.full((height, width, len(colour)), colour, np.uint8)


def test_image_in_network_form_is_unchanged():
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for fit in ("crop", "whole"):
        result, notes = fit_to_input(picture, CIFAR, fit)
        np.testing.assert_array_equal(result, picture)
        assert notes == ()


def test_crop_takes_the_centre_and_averages():
    picture = solid(64, 128, (0, 0, 0))
    picture[:, 32:96] = 255
    picture[::2, 32:96] = 55  # stripes of one pixel: aliasing would leave one of the two values
    result, notes = fit_to_input(picture, CIFAR, "crop")
    assert result.shape == (32, 32, 3)
    assert (result == 155).all()
    assert notes == ("cropped to the central 64x64", "reduced to 32x32")


def test_whole_image_is_padded():
    picture = solid(100, 200)
    result, notes = fit_to_input(picture, CIFAR, "whole")
    assert (result == [200, 10, 30]).all()
    assert notes == ("padded with its mean colour", "reduced to 32x32")
    picture[:, :20] = 0
    result, _ = fit_to_input(picture, CIFAR, "whole")
    assert (result[16, 0] == 0).all()
    assert 0 < result[0, 0, 0] < 200


def test_grey_transparent_and_small_images():
    result, notes = fit_to_input(solid(32, 32, (90,)), CIFAR, "crop")
    assert (result == 90).all()
    assert notes == ("converted grey to RGB",)
    result, notes = fit_to_input(solid(32, 32, (10, 20, 30, 0)), CIFAR, "crop")
    assert (result == 255).all()
    assert notes == ("placed on a white background",)
    assert fit_to_input(solid(32, 32, (10, 20, 30, 255)), CIFAR, "crop")[1] == ()
    result, notes = fit_to_input(solid(8, 8), CIFAR, "crop")
    assert (result == [200, 10, 30]).all()
    assert notes == ("enlarged to 32x32",)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 31), (500, 64), (31, 32), (3000, 2000)])
@pytest.mark.parametrize("fit", ["crop", "whole"])
def test_any_image_size_fits_the_input(size, fit):
    assert fit_to_input(solid(*size), CIFAR, fit)[0].shape == (32, 32, 3)


def test_narrow_image_is_refused_for_crop():
    with pytest.raises(BadInput, match=r"900x100.*too narrow.*--fit whole.*fit=\"whole\""):
        fit_to_input(solid(100, 900), CIFAR, "crop")
    assert fit_to_input(solid(100, 900), CIFAR, "whole")[0].shape == (32, 32, 3)


def test_very_narrow_image_is_refused_as_a_whole():
    with pytest.raises(BadInput, match=r"33x1.*too narrow"):
        fit_to_input(solid(1, 33), CIFAR, "whole")
    assert fit_to_input(solid(1, 32), CIFAR, "whole")[0].shape == (32, 32, 3)


def test_transparency_is_placed_on_white_exactly():
    colour, alpha = np.mgrid[:256, :256]
    picture = np.stack([colour, colour, colour, alpha], axis=2).astype(np.uint8)
    result, notes = fit_to_input(picture, Input(256, 256, 3, "photo"), "crop")
    expected = np.rint((colour * alpha + 255 * (255 - alpha)) / 255)  # there are no ties
    np.testing.assert_array_equal(result, np.stack([expected] * 3, axis=2))
    assert notes == ("placed on a white background",)


def test_prepare_on_a_real_photograph():
    result, notes = prepare(data.chelsea(), CIFAR)
    assert result.shape == (32, 32, 3)
    assert notes == ("cropped to the central 300x300", "reduced to 32x32")
    assert result.std() > 20


@pytest.mark.slow
def test_photo_model_predicts_photographs(model):
    """An untrained network; only the form of the result is tested."""
    import torch

    from train import export, networks, recipe
    from train import onnx_graph as deploy

    found = recipe.find("cifar93k.notes")
    torch.manual_seed(0)
    graph = deploy.to_onnx(networks.build(found), found, 1.0)
    export.embed(graph, replace(model.card.embedded(), name=found.name, input=CIFAR))
    photo_model = Model(graph.SerializeToString(), "cpu")
    row = photo_model.predict(data.chelsea(), fit="whole")
    assert row.model == "cifar93k.notes"
    assert row.corrections == ("padded with its mean colour", "reduced to 32x32")
    assert photo_model.predict([data.chelsea()])[0].corrections[0] == "cropped to the central 300x300"


@pytest.mark.parametrize("fit", ["crop", "whole"])
def test_photo_of_a_cat_is_classified_as_cat(fit):
    """scikit-image's photograph of a cat, 451x300 pixels."""
    row = zoo.load("resnet8", device="cpu").predict(data.chelsea(), fit=fit)
    assert row.label == "cat"
    assert row.probability > 0.9
    assert row.corrections[-1] == "reduced to 32x32"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grey_network_gets_one_channel(channels):
    pixels = np.full((40, 60, channels), 90, np.uint8)
    pixels[..., -1] = 255 if channels == 4 else 90
    image, corrections = fit_to_input(pixels, Input(28, 28, 1, "photo"), "crop")
    assert image.shape == (28, 28, 1)
    assert (image == 90).all()
    assert ("converted colour to grey" in corrections) == (channels > 1)


def test_a_grey_image_of_the_networks_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    image, corrections = fit_to_input(pixels, Input(28, 28, 1, "photo"), "crop")
    np.testing.assert_array_equal(image, pixels)
    assert corrections == ()
