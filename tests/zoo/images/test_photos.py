"""Photographs of any size and shape are brought into a network's form."""

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

import zoo
from tests.support.paths import REPOSITORY
from zoo.card import Input, Resize
from zoo.classification import prepare_all
from zoo.errors import BadInput
from zoo.images.decode import decode_bytes
from zoo.images.digits import to_mnist
from zoo.images.photos import fit_to_input, least_side
from zoo.images.prepare import prepare
from zoo.images.read import Named
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
    calibration = replace(model.card.calibration, known_from=None)
    export.embed(graph, replace(model.card.embedded(), name=found.name, input=CIFAR, calibration=calibration))
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


# Rules of a model's own. `reference` is what Resize and CenterCrop of torchvision do with a PIL image; the test that
# uses torchvision itself is in tests/zoo/adding/test_torchvision.py.


def reference(pixels, size, side, interpolation):
    image = Image.fromarray(pixels)
    width, height = image.size
    longer = int(size * max(width, height) / min(width, height))
    image = image.resize((size, longer) if width <= height else (longer, size), interpolation)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_own_rules_give_pillows_pixels(interpolation):
    expected = Input(28, 28, 3, "photo", Resize("shortest", 33, interpolation))
    generator = np.random.default_rng(0)
    for height, width in [
        (28, 28),
        (33, 33),
        (33, 50),
        (100, 101),
        (47, 200),
        (5, 9),
        *generator.integers(9, 70, (20, 2)),
    ]:
        picture = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        result, _ = fit_to_input(picture, expected, "crop")
        wanted = reference(picture, 33, 28, Image.Resampling[interpolation.upper()])
        np.testing.assert_array_equal(result, wanted, err_msg=f"{height}x{width}")


def test_stretching_and_opencvs_interpolation():
    picture = data.chelsea()
    exact = Input(48, 96, 3, "photo", Resize("exact", 48, "bilinear"))
    result, notes = fit_to_input(picture, exact, "crop")
    np.testing.assert_array_equal(result, Image.fromarray(picture).resize((96, 48), Image.Resampling.BILINEAR))
    assert notes == ("resized to 96x48",)
    aliased = replace(exact, resize=replace(exact.resize, antialias=False))
    np.testing.assert_array_equal(fit_to_input(picture, aliased, "crop")[0], cv2.resize(picture, (96, 48)))
    whole, notes = fit_to_input(picture, Input(64, 64, 3, "photo", Resize("shortest", 72, "bicubic")), "whole")
    small = Image.fromarray(picture).resize((64, 43), Image.Resampling.BICUBIC)  # 300x451
    np.testing.assert_array_equal(whole[10:53], small)
    assert notes == ("padded with its mean colour", "reduced to 64x64")


def test_own_size_is_resized_where_the_rules_say_so():
    """torchvision enlarges an image of the network's size to 256 and crops it; so do lists of ready PNG files."""
    picture = data.chelsea()[:28, :28]
    rules = Input(28, 28, 3, "photo", Resize("shortest", 32, "bilinear"))
    result, notes = fit_to_input(picture, rules, "crop")
    np.testing.assert_array_equal(result, reference(picture, 32, 28, Image.Resampling.BILINEAR))
    assert notes == ("enlarged to 32x32", "cropped to the central 28x28")
    np.testing.assert_array_equal(fit_to_input(picture, rules, "whole")[0], picture)
    files = []
    for number in range(5):
        file = io.BytesIO()
        Image.fromarray(np.roll(picture, number, 0)).save(file, "PNG")
        files.append(Named(f"{number}.png", file.getvalue()))
    for number, prepared in enumerate(prepare_all(files, rules)):
        wanted = reference(np.roll(picture, number, 0), 32, 28, Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(prepared.pixels, wanted)
    same = replace(rules, resize=replace(rules.resize, size=28))
    np.testing.assert_array_equal(fit_to_input(picture, same, "crop")[0], picture)


def test_narrow_images_do_not_need_much_memory():
    rules = Input(224, 224, 3, "photo", Resize("shortest", 2048, "bilinear"))
    with pytest.raises(BadInput, match="too narrow to crop"):
        fit_to_input(solid(1, 60_000), rules, "crop")


def test_grey_input():
    picture = data.chelsea()
    grey = Input(28, 28, 1, "photo")
    result, notes = fit_to_input(picture, grey, "crop")
    assert result.shape == (28, 28, 1)
    assert notes[0] == "converted to grey"
    again, notes = fit_to_input(np.asarray(Image.fromarray(picture).convert("L"))[:, :, np.newaxis], grey, "crop")
    np.testing.assert_array_equal(again, result)
    assert "grey" not in " ".join(notes)
    assert fit_to_input(picture, grey, "whole")[0].shape == (28, 28, 1)


# Large JPEGs, which the decoder reduces


def photograph(height, width, source="coffee"):
    """A photograph of scikit-image, enlarged."""
    return cv2.resize(getattr(data, source)(), (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg_bytes(pixels, orientation=1, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, **({"quality": 92} | options))
    return file.getvalue()


def prepare_whole(content, fit="crop"):
    """The result without reduction, and its corrections."""
    image = decode_bytes(content, "x")
    assert image.reduced is None
    pixels, corrections = fit_to_input(image.pixels, CIFAR, fit)
    return pixels, image.corrections + corrections


def assert_close(content, fit="crop"):
    result, corrections = prepare(content, CIFAR, fit)
    whole, expected = prepare_whole(content, fit)
    assert corrections == expected
    difference = np.abs(result.astype(int) - whole)
    assert difference.max() <= 4
    assert difference.mean() <= 0.35


@pytest.mark.parametrize("fit", ["crop", "whole"])
@pytest.mark.parametrize(
    ("height", "width", "factor"), [(2050, 2333, 8), (1031, 1500, 4), (600, 517, 2), (511, 900, 1), (3000, 4000, 8)]
)
def test_reduced_jpeg_gives_pixels_of_whole(height, width, factor, fit):
    content = jpeg_bytes(photograph(height, width))
    reduced = decode_bytes(content, "x", least_side(CIFAR)).reduced
    assert (reduced.factor if reduced else 1) == factor
    assert_close(content, fit)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_jpeg_is_turned_upright(orientation):
    content = jpeg_bytes(photograph(1025, 1207), orientation)  # neither side is divisible by 4
    for fit in ("crop", "whole"):
        assert_close(content, fit)


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"subsampling": 0}, {"subsampling": 2, "quality": 60}, {"restart_marker_rows": 1}],
)
def test_kinds_of_reduced_jpegs(options):
    assert_close(jpeg_bytes(photograph(1100, 1300), **options))


def test_grey_and_cmyk_are_reduced():
    grey = cv2.cvtColor(photograph(1100, 1300), cv2.COLOR_RGB2GRAY)
    cmyk = io.BytesIO()
    Image.fromarray(photograph(1100, 1300)).convert("CMYK").save(cmyk, "JPEG", quality=92)
    for content in (jpeg_bytes(grey), cmyk.getvalue()):
        assert decode_bytes(content, "x", least_side(CIFAR)).reduced.factor == 4
        assert_close(content)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_truncated_jpeg_gives_the_same_error_when_reduced(share, progressive):
    content = jpeg_bytes(photograph(1100, 1300), progressive=progressive)
    cut = content[: int(len(content) * share)]
    with pytest.raises(BadInput) as whole:
        decode_bytes(cut, "x")
    with pytest.raises(BadInput) as reduced:
        decode_bytes(cut, "x", least_side(CIFAR))
    assert str(reduced.value) == str(whole.value)


def test_limit_on_pixels_applies_to_whole_jpeg():
    content = jpeg_bytes(solid(5001, 5000))
    with pytest.raises(BadInput, match="more than the limit of 25 million"):
        prepare(content, CIFAR)


def test_every_source_of_the_same_file_gives_the_same_pixels(tmp_path):
    content = jpeg_bytes(photograph(1031, 1500), orientation=6)
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    expected = prepare(path, CIFAR)
    with open(path, "rb") as file, Image.open(path) as opened:
        for source in (content, Named("x", content), file, opened):
            pixels, corrections = prepare(source, CIFAR)
            np.testing.assert_array_equal(pixels, expected[0])
            assert corrections == expected[1]


def test_digits_are_decoded_whole():
    example = cv2.cvtColor(cv2.imread(str(REPOSITORY / "examples" / "two.jpg")), cv2.COLOR_BGR2RGB)
    content = jpeg_bytes(cv2.resize(example, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC))
    pixels, corrections = prepare(content, Input(28, 28, 1, "digit"))
    expected = to_mnist(decode_bytes(content, "x").pixels)
    np.testing.assert_array_equal(pixels, expected[0])
    assert corrections == expected[1]


# Networks that take grey images


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grey_network_gets_one_channel(channels):
    pixels = np.full((40, 60, channels), 90, np.uint8)
    pixels[..., -1] = 255 if channels == 4 else 90
    image, corrections = fit_to_input(pixels, Input(28, 28, 1, "photo"), "crop")
    assert image.shape == (28, 28, 1)
    assert (image == 90).all()
    assert ("converted to grey" in corrections) == (channels > 1)


def test_a_grey_image_of_the_networks_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    image, corrections = fit_to_input(pixels, Input(28, 28, 1, "photo"), "crop")
    np.testing.assert_array_equal(image, pixels)
    assert corrections == ()
