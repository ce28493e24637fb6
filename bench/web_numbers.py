"""How long the static page takes to read a number: `python -m bench.web_numbers`.

Opens a site of `zoo export --format web` in Chromium, gives it images of numbers, and prints medians of the times that
the page reports (correction and network), and of the CPU time of the browser's page, which a busy machine changes less.
"""

from __future__ import annotations

import functools
import http.server
import tempfile
import threading
from pathlib import Path

import click
import cv2
import numpy as np

import zoo
from serve.export.formats import write_folder
from serve.export.web import site
from tests.pictures import digit_shapes, number_pictures
from tests.support.server import find_browser
from zoo.model import Model, onnx_bytes

FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking".split()
WARM_UP = 5  # images: the browser compiles the program meanwhile
TIMEOUT_MS = 120_000  # the machine may be busy


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@click.command()
@click.option("--model", default="mnist14k", show_default=True)
@click.option("--count", default=30, show_default=True, help="Images of each kind.")
@click.option("--seed", default=2026, show_default=True)
def main(model: str, count: int, seed: int) -> None:
    """Measure the static page with numbers of 2 to 6 drawn digits, apart and touching."""
    network = zoo.load(model, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder) / "site", site({network.card.name: (network.card, onnx_bytes(network))}))
        handler = functools.partial(_Quiet, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for kind in ("apart", "touching"):
                _measure(f"http://127.0.0.1:{server.server_port}/site/", network, kind, count, seed)
            server.shutdown()


def _measure(address: str, network: Model, kind: str, count: int, seed: int) -> None:
    from playwright.sync_api import sync_playwright

    rows = []
    same = 0
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=find_browser(), args=FLAGS) as browser,
    ):
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        session = browser.new_browser_cdp_session()

        def cpu_seconds() -> float:
            processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
            return float(sum(process["cpuTime"] for process in processes if process["type"] == "renderer"))

        for index in range(count + WARM_UP):
            image = _image(np.random.default_rng([seed, len(kind), index]), kind, index)
            content = cv2.imencode(".png", image[:, :, [2, 1, 0, 3][: image.shape[2]]])[1].tobytes()
            page.evaluate("() => { delete document.getElementById('result').dataset.total; }")
            started = cpu_seconds()
            page.set_input_files("#file", {"name": f"{index}.png", "mimeType": "image/png", "buffer": content})
            page.wait_for_selector("#result[data-total]")
            times = page.evaluate("() => ({ ...document.getElementById('result').dataset })")
            if index < WARM_UP:
                continue
            same += network.predict([image])[0].label == page.locator("#result .label").inner_text()
            values = [float(times[name]) for name in ("correction", "network", "total")]
            rows.append([*values, 1e3 * (cpu_seconds() - started)])
    medians, highest = np.median(rows, axis=0), np.max(rows, axis=0)
    names = ("correction", "network", "total", "CPU")
    figures = ", ".join(
        f"{name} {middle:.0f} ms (at most {most:.0f})"
        for name, middle, most in zip(names, medians, highest, strict=True)
    )
    print(f"{kind}: {figures}; medians of {count} images, {same} of them with the text of Python")


def _image(random: np.random.Generator, kind: str, index: int) -> np.ndarray:
    values = random.integers(10, size=int(random.integers(2, 7)))
    shapes = [digit_shapes.draw(int(value), random, 240, float(random.uniform(0.07, 0.12))) for value in values]
    small = [cv2.resize(shape, (28, 28), interpolation=cv2.INTER_AREA) for shape in shapes]
    gaps = [getattr(number_pictures, kind)(random) for _ in values[1:]]
    digits = [np.asarray(255 * shape, np.uint8) for shape in small]
    return number_pictures.number(random, digits, gaps, number_pictures.STYLES[index % len(number_pictures.STYLES)])


if __name__ == "__main__":
    main()
