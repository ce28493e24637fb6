"""Facts, duplicates, splits and errors of one's own images, before any training."""

import numpy as np
import pytest
from PIL import Image

from train.fit import data as own
from zoo.card import Input
from zoo.errors import BadData
from zoo.images.prepare import prepare


def write(folder, label, count, seed=0, size=(40, 40), mode="RGB"):
    rng = np.random.default_rng([seed, sum(map(ord, label))])
    for number in range(count):
        coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        path = folder / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "set", "a", 40)
    write(tmp_path / "set", "b", 20)
    return tmp_path / "set"


def test_split_is_stratified_seeded_and_complete(folder):
    one, same, other = own.read(folder, 0), own.read(folder, 0), own.read(folder, 1)
    assert one.counts() == {"train": 45, "validation": 6, "test": 9}
    assert {(one.classes[one.split == name] == 0).sum() for name in ("test",)} == {6}
    assert one.sha256() == same.sha256() != other.sha256()
    assert len(set(one.names)) == 60


def test_training_pixels_are_those_of_predict(folder):
    data = own.read(folder, 0)
    assert data.input == Input(32, 32, 3, "photo")
    for name, pixels in zip(data.names, data.images, strict=True):
        np.testing.assert_array_equal(pixels, prepare(folder / name, data.input)[0])


@pytest.mark.parametrize(("size", "mode", "expected"), [((20, 20), "L", (28, 28, 1)), ((90, 70), "RGB", (64, 64, 3)),
                                                        ((40, 40), "RGB", (32, 32, 3))])  # fmt: skip
def test_input_is_chosen_by_the_images(tmp_path, size, mode, expected):
    for label in "ab":
        write(tmp_path, label, 4, size=size, mode=mode)
    assert own.read(tmp_path, 0).input.shape == expected


def test_duplicates_stay_on_one_side(folder):
    for number in range(15):  # exact copies, and brighter ones
        image = Image.open(folder / "a" / f"{number}.png")
        image.save(folder / "a" / f"copy{number}.png")
        Image.fromarray(np.clip(np.asarray(image).astype(int) + 2, 0, 255).astype(np.uint8)).save(
            folder / "a" / f"near{number}.png"
        )
    data = own.read(folder, 0)
    split = dict(zip(data.names, data.split, strict=True))
    for number in range(15):
        assert len({split[f"a/{prefix}{number}.png"] for prefix in ("", "copy", "near")}) == 1
    assert any(fact.startswith("Duplicates: 15 exact, 15 near pairs") for fact in data.facts)


def test_copies_of_test_images_are_left_out_of_training(tmp_path):
    for split, seed in (("train", 0), ("test", 1)):
        for label in "ab":
            write(tmp_path / split, label, 10, seed)
    Image.open(tmp_path / "test" / "a" / "0.png").save(tmp_path / "train" / "a" / "leak.png")
    data = own.read(tmp_path, 0)
    assert "train/a/leak.png" not in data.names
    assert "1 image left out, because copies are in a later split." in data.facts
    assert data.counts() == {"train": 18, "validation": 2, "test": 20}


def test_problems_and_warnings_are_in_the_facts(folder):
    (folder / "a" / "broken.png").write_bytes(b"no image")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").write_bytes(b"")
    write(folder, "c", 3)
    facts = "\n".join(own.read(folder, 0).facts)
    for part in ("a 40, b 20, c 3", "broken.png", ".git", "Imbalance", "Too small to measure alone", "test split has"):
        assert part in facts


def test_class_weights(folder):
    weights = own.read(folder, 0).class_weights()
    assert weights[1] > 1 > weights[0]
    write(folder, "b", 36)
    assert own.read(folder, 0).class_weights() is None


def test_mirrored_classes_are_found(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(40):
        image = rng.integers(0, 60, (40, 40, 3), dtype=np.uint8)
        image[5:35, 2:12] = 200
        for label, pixels in (("left", image), ("right", image[:, ::-1]), ("none", rng.integers(0, 60, image.shape))):
            path = tmp_path / label / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    assert set(own.mirrored_classes(own.read(tmp_path, 0))) == {("left", "right"), ("right", "left")}


def test_errors_before_training(tmp_path):
    with pytest.raises(BadData, match="no labelled images"):
        own.read(tmp_path, 0)
    write(tmp_path, "a", 5)
    with pytest.raises(BadData, match="one sub-folder per class"):
        own.read(tmp_path, 0)
    write(tmp_path, "b", 1)
    with pytest.raises(BadData, match=r"class 'b' .* has 1 readable image: add images"):
        own.read(tmp_path, 0)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"no")
    write(tmp_path, "c", 2)
    for number in range(5):
        (tmp_path / "b" / f"{number}.png").write_bytes(b"no")
        (tmp_path / "c" / f"{number}.png").write_bytes(b"no")
    with pytest.raises(BadData, match="None of the 15 images"):
        own.read(tmp_path, 0)


def test_a_class_without_training_images_is_an_error(tmp_path):
    for label in ("a", "b"):
        write(tmp_path / "train", label, 5)
    write(tmp_path / "test", "c", 5)
    with pytest.raises(BadData, match=r"class 'c' .* has no images for training"):
        own.read(tmp_path, 0)


def test_duplicates_with_different_labels_are_named(tmp_path):
    for label in ("a", "b"):
        write(tmp_path, label, 12)
    (tmp_path / "b" / "wrong.png").write_bytes((tmp_path / "a" / "3.png").read_bytes())
    (warning,) = [fact for fact in own.read(tmp_path, 0).facts if fact.startswith("Warning")]
    assert "1 group of duplicates" in warning
    assert "a/3.png and b/wrong.png" in warning
