"""Time of the static page's image correction in headless Chromium: `python -m bench.web_correction`.

Measures `serve/web/static/digits.js`, or several builds in turn, such as one of an older commit:
`python -m bench.web_correction old/digits.js serve/web/static/digits.js`. Prints medians over the rounds, in ms.

- cold: the first correction of a new page.
- warm: the median of the corrections that follow.
"""

import os
import shutil
import sys
from base64 import b64encode
from pathlib import Path
from statistics import median

import numpy as np

from tests.pictures import digit_pictures as pictures
from tests.pictures.digit_shapes import Array, draw

ROUNDS, REPEATS = 7, 20
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]
MEASURE = """([width, height, channels, text, repeats]) => {
    const data = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return Array.from({length: repeats}, () => {
        const start = performance.now();
        digits.toMnist({width, height, channels, data});
        return performance.now() - start;
    });
}"""


def photo(random: np.random.Generator, height: int, width: int) -> Array:
    """A photograph of a digit on paper."""
    shape = pictures.placed(draw(5, random, height // 2), height, width)
    scene = pictures.painted(shape, pictures.paper(random, height, width), pictures.pen_colour(random))
    light = pictures.light(random, height, width, 0.3)
    return pictures.photographed(random, np.asarray(scene * light, np.float32), 3.0, 0.8)


def main(builds: list[str]) -> None:
    from playwright.sync_api import sync_playwright

    random = np.random.default_rng(0)
    drawing = 255 - np.rint(pictures.placed(draw(5, random, 210, 0.09), 336, 336) * 255).astype(np.uint8)[:, :, None]
    images = {
        "drawing 336x336": drawing,
        "photo 640x480": photo(random, 480, 640),
        "photo 1024x768": photo(random, 768, 1024),
    }
    times: dict[tuple[str, str], list[list[float]]] = {(name, build): [] for name in images for build in builds}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which(os.environ.get("ZOO_CHROMIUM", "chromium")), args=FLAGS
        )
        for _ in range(ROUNDS):
            for name, build in times:
                image = images[name]
                page = browser.new_page()
                page.add_script_tag(path=build)
                text = b64encode(np.ascontiguousarray(image).tobytes()).decode()
                first, *others = page.evaluate(MEASURE, [image.shape[1], image.shape[0], image.shape[2], text, REPEATS])
                times[name, build].append([first, median(others[len(others) // 2 :])])
                page.close()
        browser.close()
    for (name, build), rows in times.items():
        cold, warm = (median(column) for column in zip(*rows, strict=True))
        print(f"{name:16} cold {cold:7.1f}  warm {warm:7.1f}  {build}")


if __name__ == "__main__":
    main(sys.argv[1:] or [str(Path(__file__).parents[1] / "serve" / "web" / "static" / "digits.js")])
