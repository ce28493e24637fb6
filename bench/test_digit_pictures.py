"""How many generated pictures of digits are read right, style by style: the figures of docs/decisions/0005.

    pytest bench/test_digit_pictures.py --benchmark-only --bench-full

The seeds differ from those of the tests, and from those that were looked at while the corrections were built.
"""

import zlib

import numpy as np
import pytest

from bench import digit_pictures as pictures
from bench import digit_shapes as shapes
from zoo.digits import to_mnist
from zoo.errors import BadInput

SLOW = {"huge", "tiny"}  # pictures of many megapixels: fewer of them


def picture(style: str, number: int) -> np.ndarray:
    random = np.random.default_rng([zlib.crc32(style.encode()), 2_000_000 + number])
    size, width = int(random.integers(110, 300)), float(random.choice([0.02, 0.03, 0.05, 0.08, 0.12, 0.16]))
    return pictures.STYLES[style](random, shapes.draw(number % 10, random, size, width))


@pytest.mark.full
@pytest.mark.parametrize("style", pictures.STYLES)
def test_style(benchmark, model, style):
    count = 20 if style in SLOW else 100
    right = refused = 0
    for number in range(count):
        try:
            answer = model.run(to_mnist(picture(style, number))[0][np.newaxis]).probabilities.argmax()
        except BadInput:
            refused += 1
        else:
            right += int(answer) == number % 10
    benchmark.extra_info |= {"scope": "pixels to MNIST's form", "model": model.card.name, "n": count, "right": right,
                             "refused": refused}  # fmt: skip
    result, _ = benchmark(to_mnist, picture(style, 7))
    assert result.shape == (28, 28, 1)
    assert right >= 0.95 * count
