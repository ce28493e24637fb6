"""The page's corrections (serve/web/src) give the images, corrections and errors of `zoo.images`."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from tests.pictures import digit_crops as crops
from tests.pictures import digit_obstacles as obstacles
from tests.pictures import empty_pictures as empty
from tests.pictures.digit_pictures import STYLES
from tests.pictures.digit_shapes import draw
from tests.serve.export.test_web import WEB
from tests.support.browser import CHROMIUM, FLAGS
from zoo.card import Input
from zoo.errors import ZooError
from zoo.images.digits import to_mnist
from zoo.images.photos import fit_to_input
from zoo.loading import load

BATCH = 24  # pictures that the browser fetches at once
SCRIPT = """async ([path, shapes, call]) => {
    const content = new Uint8Array(await (await fetch(path)).arrayBuffer());
    let start = 0;
    return shapes.map(([height, width, channels]) => {
        const data = content.slice(start, start += height * width * channels);
        const pixels = {width, height, channels, data};
        try {
            const {image, corrections} = eval(call)(pixels);
            return {image: Array.from(image.data), corrections, error: null};
        } catch (error) {
            return {image: null, corrections: [], error: [error.name, error.message]};
        }
    });
}"""
# Python's middle lines of strokes depend on the last bit of distances, and that on OpenCV's library for x86.
HAS_IPP = cv2.ipp.useIPP()


def digits() -> list[np.ndarray]:
    """508 pictures: all styles and obstacles, tight crops, pictures without a digit, and images in MNIST's form."""
    random = np.random.default_rng(20)
    pictures = [
        style(random, draw(index % 10, random))
        for name, style in STYLES.items()
        for index in range({"huge": 1, "tiny": 2}.get(name, 9))
    ]
    pictures += [kind(random, draw(index % 10, random)) for kind in obstacles.OBSTACLES.values() for index in range(14)]
    fonts = crops.fonts()
    for index in range(30):
        shape = draw(index % 10, random) if index % 2 else crops.printed(index % 10, fonts[index % len(fonts)])
        pictures.append(crops.tight(random, shape))
    pictures += [kind(random) for kind in empty.EMPTY.values() for _ in range(5)]
    for side in (30, 60, 200, 400):
        pictures += [random.integers(0, 256, (side, side, channels), np.uint8) for channels in (1, 3)]
    pictures += [np.full((100, 120, 3), grey, np.uint8) for grey in (0, 128, 255)] + [np.zeros((100, 120, 4), np.uint8)]
    for index in range(9):
        pair = np.concatenate([draw(index, random, 150), draw(3 * index % 10, random, 150)], axis=1)
        pictures.append(STYLES[("canvas", "photo", "transparent")[index % 3]](random, pair))
    for index in range(12):
        image, _ = to_mnist(STYLES["canvas"](random, draw(index % 10, random)))
        enlarged = np.kron(255 - image, np.ones((5 + index, 5 + index, 1), np.uint8))
        pictures += [image, 255 - image, np.repeat(image, 3, axis=2), enlarged]
    pictures += [obstacles.edged(random, draw(index % 10, random)) for index in range(20)]  # few keep edges to remove
    return pictures


class _Pictures(http.server.BaseHTTPRequestHandler):
    batches: dict[str, list[np.ndarray]]

    def do_GET(self):
        content = b"".join(np.ascontiguousarray(picture).tobytes() for picture in self.batches.get(self.path, []))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/octet-stream" if content else "text/html")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@contextmanager
def served(batches: dict[str, list[np.ndarray]]) -> Iterator[str]:
    handler = type("Pictures", (_Pictures,), {"batches": batches})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def in_browser(pictures: list[np.ndarray], call: str) -> list[dict]:
    """What a function of the page gives for each picture: `image`, `corrections` and `error` (name and message)."""
    from playwright.sync_api import sync_playwright

    batches = {f"/{start}": pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)}
    results = []
    with (
        served(batches) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser,
    ):
        page = browser.new_page()
        page.goto(address)
        page.add_script_tag(path=WEB / "static" / "digits.js")
        for path, batch in batches.items():
            results += page.evaluate(SCRIPT, [path, [picture.shape for picture in batch], call])
    return results


def in_python(picture: np.ndarray) -> dict:
    try:
        image, corrections = to_mnist(picture)
        return {"image": image, "corrections": list(corrections), "error": None}
    except ZooError as error:
        return {"image": None, "corrections": [], "error": [type(error).__name__, str(error)]}


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_digits_are_those_of_python():
    pictures = digits()
    ours, theirs = [in_python(picture) for picture in pictures], in_browser(pictures, "digits.toMnist")
    pairs = list(zip(ours, theirs, strict=True))
    errors = [(one["error"], two["error"]) for one, two in pairs if one["error"] or two["error"]]
    assert len(errors) >= 15
    assert [one for one, _ in errors] == [two for _, two in errors]
    both = [(one, two) for one, two in pairs if not one["error"]]
    assert len(both) >= 350
    notes = {correction for one, _ in both for correction in one["corrections"]}
    assert {"removed the edges of a cell", "removed lines of the paper", "filled an outline"} <= notes
    images = np.array([one["image"] for one, _ in both])
    ported = np.array([two["image"] for _, two in both], np.uint8).reshape(images.shape)
    differences = np.abs(images.astype(int) - ported).max(axis=(1, 2, 3))
    same = [one["corrections"] == two["corrections"] for one, two in both]
    model = load("mnist14k.plus", "cpu")
    labels = [model.run(each).probabilities.argmax(axis=1) for each in (images, ported)]
    counts = {
        "pictures": len(both),
        "equal": int((differences == 0).sum()),
        "within 1": int((differences <= 1).sum()),
        "largest difference": int(differences.max()),
        "same corrections": sum(same),
        "same label": int((labels[0] == labels[1]).sum()),
    }
    print(json.dumps(counts))
    assert counts["same label"] >= 0.995 * len(both), counts
    assert counts["same corrections"] >= 0.99 * len(both), counts
    assert counts["within 1"] >= (0.99 if HAS_IPP else 0.9) * len(both), counts
    assert counts["equal"] >= (0.9 if HAS_IPP else 0.8) * len(both), counts


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_photographs_are_those_of_python():
    random = np.random.default_rng(21)
    pictures = [STYLES[name](random, draw(3, random)) for name in ("photo", "chalk", "rounded", "coloured", "ruled")]
    pictures += [picture[:300, :41] for picture in pictures] + [picture[:20, :25] for picture in pictures]
    pictures += [pictures[0][:, :, :1], random.integers(0, 256, (32, 32, 3), np.uint8)]
    expected = Input(32, 32, 3, "photo")
    for fit in ("crop", "whole"):
        call = f'(pixels) => digits.fitToInput(pixels, {{height: 32, width: 32, channels: 3}}, "{fit}")'
        for picture, theirs in zip(pictures, in_browser(pictures, call), strict=True):
            image, corrections = fit_to_input(picture, expected, fit)
            ported = np.array(theirs["image"], np.uint8).reshape(image.shape)
            assert np.abs(image.astype(int) - ported).max() <= 1
            assert list(corrections) == theirs["corrections"]
