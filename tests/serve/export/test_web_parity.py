"""The page's corrections (serve/web/src) give the images and labels of `zoo.images`."""

from base64 import b64encode

import numpy as np
import pytest

from tests.pictures.digit_pictures import STYLES
from tests.pictures.digit_shapes import draw
from tests.serve.demo.test_page import CHROMIUM, FLAGS
from tests.serve.export.test_web import WEB
from zoo.images.digits import to_mnist
from zoo.model import load

NOT_PORTED = ("removed a", "removed lines", "removed bars", "filled")  # docs/decisions/0023-browser.md
CALL = """([width, height, channels, text]) => {
    const data = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const {image, corrections} = digits.toMnist({width, height, channels, data});
    return [Array.from(image.data), corrections];
}"""


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_images_corrections_and_labels_are_those_of_python():
    from playwright.sync_api import sync_playwright

    random = np.random.default_rng(20)
    pictures = [style(random, draw(index % 10, random)) for index, style in enumerate(STYLES.values())]
    corrected = [(picture, to_mnist(picture)) for picture in pictures]
    corrected = [
        (picture, one) for picture, one in corrected if not any(note.startswith(NOT_PORTED) for note in one[1])
    ]
    pictures, ours = [picture for picture, _ in corrected], [one for _, one in corrected]
    assert len(pictures) >= 14
    theirs = []
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        page = browser.new_page()
        page.add_script_tag(path=WEB / "static" / "digits.js")
        for picture in pictures:
            height, width, channels = picture.shape
            theirs.append(page.evaluate(CALL, [width, height, channels, b64encode(picture.tobytes()).decode()]))
    images = np.array([image for image, _ in ours])
    ported = np.array([image for image, _ in theirs], np.uint8).reshape(images.shape)
    differences = np.abs(images.astype(int) - ported).max(axis=(1, 2, 3))
    assert np.mean(differences <= 3) >= 0.85
    assert np.median(differences) <= 1
    assert [list(corrections) for _, corrections in ours] == [corrections for _, corrections in theirs]
    model = load("mnist14k.plus", "cpu")
    labels = [model.run(each).probabilities.argmax(axis=1) for each in (images, ported)]
    assert (labels[0] == labels[1]).all()
