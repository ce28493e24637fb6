"""The page of `zoo export --format web` in a real browser.

$ZOO_SCREENSHOTS: a folder for screenshots. $ZOO_CHROMIUM: the browser, if it is not on PATH.
"""

import functools
import http.server
import os
import re
import statistics
import threading
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import replace
from math import cos, radians, sin
from pathlib import Path

import cv2
import numpy as np
import pytest

from serve.export.formats import write_folder
from serve.export.web import site
from tests.serve.demo.test_page import CHROMIUM, EXAMPLES, LETTER_E, ONE, SEVEN
from zoo.card import Input
from zoo.images.prepare import prepare
from zoo.loading import load
from zoo.model import onnx_bytes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH; set ZOO_CHROMIUM to a browser"),
]

TIMEOUT_MS = 30_000  # the machine may be busy
LARGEST_MEDIAN_MS = 100  # from the end of a stroke to the answer; loose for the same reason
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def arc(x, y, width, height, start, end):
    """Points of an ellipse; angles in degrees, clockwise from the right."""
    angles = [radians(start + (end - start) * step / 12) for step in range(13)]
    return [(x + width * cos(angle), y + height * sin(angle)) for angle in angles]


DIGITS = {  # strokes of points, whose coordinates are fractions of the canvas's side
    "0": [arc(0.5, 0.5, 0.2, 0.3, -90, 270)],
    "1": ONE,
    "2": [[*arc(0.5, 0.36, 0.18, 0.16, -180, 40), (0.32, 0.8), (0.72, 0.8)]],
    "3": [arc(0.47, 0.35, 0.17, 0.15, -160, 90), arc(0.47, 0.65, 0.2, 0.15, -90, 160)],
    "4": [[(0.42, 0.2), (0.3, 0.55), (0.72, 0.55)], [(0.62, 0.3), (0.6, 0.82)]],
    "5": [[(0.68, 0.22), (0.38, 0.22), (0.36, 0.48), *arc(0.47, 0.63, 0.2, 0.18, -100, 140)]],
    "6": [[(0.62, 0.18), (0.44, 0.36), (0.35, 0.6), *arc(0.5, 0.65, 0.16, 0.15, -180, 180)]],
    "7": SEVEN,
    "8": [arc(0.5, 0.35, 0.14, 0.14, 90, 450), arc(0.5, 0.65, 0.17, 0.16, -90, 270)],
    "9": [[*arc(0.5, 0.36, 0.16, 0.15, 0, -360), (0.66, 0.36), (0.6, 0.82)]],
}


class Handler(http.server.SimpleHTTPRequestHandler):
    """A file host. It sends the page's policy as a header too, so that it also binds the Web Worker."""

    def end_headers(self):
        page = Path(self.directory, "site", "index.html").read_text(encoding="utf-8")
        self.send_header("Content-Security-Policy", re.search(r'Policy" content="([^"]*)"', page)[1])
        super().end_headers()

    def log_message(self, *args):
        pass


def export(folder, *names):
    models = {name: load(name, "cpu") for name in names}
    write_folder(folder / "site", site({name: (model.card, onnx_bytes(model)) for name, model in models.items()}))


@contextmanager
def hosted(folder):
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/site/"
        server.shutdown()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    export(folder, "mnist14k.plus", "mnist14k.plus-int8", "cifar90k.plus")
    with hosted(folder) as address:
        yield address


@contextmanager
def opened(browser, address, name, **options):
    """The page when it is ready. At the end, assert that nothing failed and no other host was asked."""
    context = browser.new_context(**{"viewport": DESKTOP} | options)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    requests, problems = [], []
    context.on("request", lambda request: requests.append(request))
    context.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("filechooser", lambda chooser: None)  # from now on choosers are reported
    page.add_init_script("""
        window.shift = 0;
        new PerformanceObserver((list) => {
            for (const one of list.getEntries()) if (!one.hadRecentInput) window.shift += one.value;
        }).observe({type: "layout-shift", buffered: true});
    """)
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.requests, page.problems = requests, problems
    yield page
    if folder := os.environ.get("ZOO_SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"web-{name}.png"))
    context.close()
    assert all(request.url.startswith(address) for request in requests)
    assert not problems


def draw(page, strokes):
    box = page.locator("#canvas").bounding_box()
    for stroke in strokes:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=2)
        page.mouse.up()


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def wait_for_label(page, label):
    page.locator("#result .label", has_text=re.compile(f"^{label}$")).wait_for()


def wait_for_message(page, text):
    page.locator("#result", has_text=text).wait_for()


def wait_for_hint(page):
    page.locator("#result .empty").wait_for()


def choose_model(page, name):
    page.locator("#model").select_option(label=page.locator("option", has_text=f"{name} ·").inner_text())


def test_ten_digits_are_read_as_they_are_drawn(browser, address, capsys):
    times = []
    with opened(browser, address, "draw") as page:
        for label, strokes in DIGITS.items():
            press(page, "Clear")
            wait_for_hint(page)
            draw(page, strokes)
            wait_for_label(page, label)
            times.append(float(page.locator("#result").get_attribute("data-total")))
    with capsys.disabled():
        print(f"\n[web] from the end of a stroke to the answer: median {statistics.median(times):.1f} ms, n = 10")
    assert statistics.median(times) <= LARGEST_MEDIAN_MS


def test_models_are_changed_and_tell_what_they_do_not_know(browser, address):
    with opened(browser, address, "unknown") as page:
        draw(page, LETTER_E)
        wait_for_message(page, "None of the classes")
        assert re.search(r"The nearest is \d, with \d", page.locator("#result").inner_text())
        press(page, "Clear")
        draw(page, DIGITS["5"])
        wait_for_label(page, "5")
        choose_model(page, "mnist14k.plus-int8")
        page.locator("#result .time", has_text="mnist14k.plus-int8").wait_for()
        wait_for_label(page, "5")
        assert page.locator("#about").inner_text() == (
            "Knows the digits 0 to 9. Right for 9,962 of 10,000 test images (MNIST)."
        )
        choose_model(page, "cifar90k.plus")  # no drawing: it shows its own example
        wait_for_label(page, "cat")
        page.set_input_files("#file", EXAMPLES / "ship.jpg")
        wait_for_label(page, "ship")
        texts = page.locator("#result").inner_text()
        assert "32×32" in texts
        assert not re.search(r"\b(0\.0|100\.0) %", texts)
        choose_model(page, "mnist14k.plus")  # what was uploaded stays
        press(page, "Try cifar90k.plus")
        wait_for_label(page, "ship")


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_first_screen_has_an_example_with_its_answer(browser, address, viewport, scheme):
    with opened(browser, address, f"first-{viewport['width']}", viewport=viewport, color_scheme=scheme) as page:
        wait_for_label(page, "7")
        assert page.get_by_role("status").inner_text() == "7. >99.9 %"
        for part in ("#canvas", "#result .label", "#result .columns"):
            box = page.locator(part).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= viewport["width"]
            assert box["y"] + box["height"] <= viewport["height"], part
        assert page.locator(".columns .name").all_inner_texts() == list("0123456789")
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert page.evaluate("window.shift") < 0.1
        first = page.locator("#first")
        assert int(first.get_attribute("data-bytes")) > 11_000_000
        assert re.fullmatch(r"First answer after [\d.]+ s, [\d.]+ MB loaded\.", first.inner_text())


def test_page_has_no_serious_accessibility_problem(browser, address):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    states = {
        "start": lambda page: wait_for_label(page, "7"),
        "photo": lambda page: (press(page, "Example cat.jpg"), wait_for_label(page, "cat")),
        "empty": lambda page: (press(page, "Clear"), wait_for_hint(page)),
        "unreadable": lambda page: (page.set_input_files("#file", __file__), wait_for_message(page, "No answer")),
        "camera": lambda page: (press(page, "Camera"), page.locator("video").wait_for()),
    }
    with opened(browser, address, "axe") as page:
        for state, reach in states.items():
            reach(page)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                found = [
                    one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")
                ]
                assert not found, (
                    state,
                    scheme,
                    [(one["id"], [node["html"] for node in one["nodes"]]) for one in found],
                )


def paste_or_drop(page, kind, path):
    page.evaluate(
        """([kind, data, name]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            const options = {bubbles: true, cancelable: true, clipboardData: transfer, dataTransfer: transfer};
            const Type = kind === "paste" ? ClipboardEvent : DragEvent;
            document.body.dispatchEvent(new Type(kind, options));
        }""",
        [kind, b64encode(path.read_bytes()).decode(), path.name],
    )


def test_images_come_by_file_clipboard_drop_and_camera(browser, address, tmp_path):
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((40, 40), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "long.png"), np.full((20, 400, 3), 90, np.uint8))
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    with opened(browser, address, "inputs", permissions=["camera"]) as page:
        page.set_input_files("#file", EXAMPLES / "five.jpg")
        wait_for_label(page, "5")
        assert page.locator("#hint").is_hidden()
        paste_or_drop(page, "paste", EXAMPLES / "seven.png")
        wait_for_label(page, "7")
        paste_or_drop(page, "dragover", EXAMPLES / "two.jpg")
        assert page.get_by_text("Drop the image here").is_visible()
        paste_or_drop(page, "drop", EXAMPLES / "two.jpg")
        assert page.get_by_text("Drop the image here").is_hidden()
        wait_for_label(page, "2")
        page.set_input_files("#file", tmp_path / "photo.heic")
        wait_for_message(page, "The file photo.heic is no image that this browser can open.")
        page.set_input_files("#file", tmp_path / "blank.png")
        wait_for_message(page, "seems blank")
        draw(page, SEVEN)
        wait_for_label(page, "7")
        press(page, "Example ship.jpg")
        wait_for_label(page, "ship")
        page.set_input_files("#file", tmp_path / "long.png")
        wait_for_message(page, "too narrow")
        page.locator("#fit").select_option("whole")
        page.locator("#result .pixels").wait_for()
        press(page, "Camera")
        page.wait_for_function("() => document.querySelector('video').videoWidth > 0")
        press(page, "Take photograph")
        page.locator("#result .chips", has_text="reduced to 32x32").wait_for()
        page.wait_for_function("() => document.querySelector('video').srcObject === null")  # the camera is off
        page.evaluate("""() => {
            const refusal = new DOMException("Permission denied", "NotAllowedError");
            navigator.mediaDevices.getUserMedia = () => Promise.reject(refusal);
        }""")
        press(page, "Camera")
        wait_for_message(page, "Allow it, or upload a photograph.")


def test_keyboard_does_all_but_drawing(browser, address):
    with opened(browser, address, "keyboard") as page:
        names = []
        for _ in range(16):
            page.keyboard.press("Tab")
            names.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText || ''"))
        assert names[0].startswith("Canvas: draw with mouse")
        assert names[1:5] == ["Undo", "Clear", "Upload", "Camera"]
        assert {"Example five.jpg", "Example truck.jpg"} <= set(names)
        draw(page, [*ONE, [(0.3, 0.5), (0.7, 0.5)]])
        page.locator("#canvas").focus()
        page.keyboard.press("Control+z")
        wait_for_label(page, "1")
        page.keyboard.press("Delete")
        wait_for_hint(page)
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(EXAMPLES / "five.jpg")
        wait_for_label(page, "5")
        page.get_by_role("button", name="Example ship.jpg").focus()
        page.keyboard.press("Enter")
        wait_for_label(page, "ship")
        page.locator("#model").focus()
        page.keyboard.press("Home")
        wait_for_label(page, "7")


def test_finger_draws_on_a_phone(browser, address):
    with opened(browser, address, "touch", viewport=PHONE, has_touch=True, is_mobile=True) as page:
        box = page.locator("#canvas").bounding_box()
        session = page.context.new_cdp_session(page)

        def touch(kind, *points):
            at = [
                {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": finger}
                for finger, (x, y) in enumerate(points)
            ]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        second_finger = (0.9, 0.9)
        touch("touchStart", DIGITS["2"][0][0])
        touch("touchStart", DIGITS["2"][0][0], second_finger)
        for point in DIGITS["2"][0]:
            touch("touchMove", point, second_finger)
        touch("touchEnd")
        wait_for_label(page, "2")
        assert page.evaluate("scrollY") == 0


def test_policy_refuses_other_hosts_and_programs(browser, address):
    with opened(browser, address, "policy") as page:
        refused = page.evaluate("""async () => {
            const refused = [];
            addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            await fetch("https://example.org/").catch(() => 0);
            try { new Worker(URL.createObjectURL(new Blob(["0"]))); } catch {}
            for (const [tag, property, value] of [
                ["script", "textContent", "window.ran = true"], ["style", "textContent", "body { color: red }"],
                ["img", "src", "https://example.org/x.png"],
            ]) document.body.append(Object.assign(document.createElement(tag), {[property]: value}));
            await new Promise((resolve) => setTimeout(resolve, 300));
            return [refused, window.ran ?? null];
        }""")
        assert len(page.problems) >= 5  # the browser reports each refusal
        outside = [request for request in page.requests if not request.url.startswith(address)]
        assert all(request.failure for request in outside)  # none left the browser
        page.problems.clear()
        for request in outside:
            page.requests.remove(request)
    directives, ran = refused
    assert {"connect-src", "worker-src", "script-src-elem", "style-src-elem", "img-src"} <= set(directives)
    assert ran is None


def test_page_works_offline_and_a_newer_export_replaces_it(browser, tmp_path):
    export(tmp_path, "mnist14k.plus", "cifar90k.plus")
    with hosted(tmp_path) as address, opened(browser, address, "offline") as page:
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        page.wait_for_function("() => navigator.serviceWorker.controller")
        errors = page.context.new_cdp_session(page).send("Page.getInstallabilityErrors")["installabilityErrors"]
        assert [one["errorId"] for one in errors] in ([], ["in-incognito"])  # tests use a private window
        page.context.set_offline(True)
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert "everything was on this device" in page.locator("#first").inner_text()
        draw(page, DIGITS["3"])
        wait_for_label(page, "3")
        press(page, "Example cat.jpg")  # neither model nor image was used before
        wait_for_label(page, "cat")
        (old,) = page.evaluate("caches.keys()")

        page.context.set_offline(False)
        export(tmp_path, "mnist10k.plus")
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert "mnist10k.plus" in page.locator("#model").inner_text()
        for _ in range(60):
            page.wait_for_timeout(1000)  # more frequent calls keep Chromium from replacing the service worker
            names = page.evaluate("caches.keys()")
            if len(names) == 1 and names != [old]:
                break
        assert len(names) == 1
        assert names != [old]
        page.context.set_offline(True)
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert "mnist10k.plus" in page.locator("#model").inner_text()
        wait_for_label(page, "7")


def test_missing_files_have_a_message(browser, address):
    with opened(browser, address, "missing", service_workers="block") as page:
        page.context.route("**/models/*.onnx", lambda route: route.fulfill(status=404))
        choose_model(page, "mnist14k.plus-int8")
        wait_for_message(page, "mnist14k.plus-int8 cannot be loaded")
        page.context.route("**/predict.js", lambda route: route.fulfill(status=404))
        page.reload()
        wait_for_message(page, "cannot be loaded. Reload the page.")
        page.problems.clear()


def test_names_and_labels_of_own_models_are_shown_as_text(browser, tmp_path):
    model = load("mnist14k.plus", "cpu")
    labels = tuple(f"<b>label {number}</b>" for number in range(10))
    card = replace(model.card, labels=labels, accuracy=None, dataset=None)
    write_folder(tmp_path / "site", site({"<i>mine</i>": (card, onnx_bytes(model))}))
    with hosted(tmp_path) as address, opened(browser, address, "own") as page:
        wait_for_label(page, labels[7])
        assert page.locator(".bars .name").all_inner_texts() == [labels[7]]  # rows, without those of 0 %
        assert "Right for" not in page.locator("#about").inner_text()
        assert page.locator("#model option").all_inner_texts() == ["<i>mine</i> · accuracy unknown · 98 KB"]
        assert page.locator("b, i").count() == 0


def test_site_of_photo_models_begins_with_a_photograph(browser, tmp_path):
    export(tmp_path, "cifar90k.plus")
    with hosted(tmp_path) as address, opened(browser, address, "photo") as page:
        wait_for_label(page, "cat")
        press(page, "Clear")
        page.get_by_text("Upload, take, drop or paste a photograph.").wait_for()
        with page.expect_file_chooser():
            page.locator("#canvas").click()


def test_number_is_read_with_a_box_around_each_digit(browser, address, tmp_path):
    number = np.full((200, 420), 255, np.uint8)
    for place, name in enumerate(("seven.png", "three.png", "four.png")):
        pixels = prepare(str(EXAMPLES / name), Input(28, 28, 1, "digit"))[0][..., 0]
        number[50:150, 20 + 130 * place : 120 + 130 * place] = 255 - cv2.resize(pixels, (100, 100))
    cv2.imwrite(str(tmp_path / "number.png"), number)
    with opened(browser, address, "number") as page:
        page.set_input_files("#file", tmp_path / "number.png")
        wait_for_label(page, "734")
        assert page.locator(".digits b").all_inner_texts() == ["7", "3", "4"]
        boxes = [box.bounding_box() for box in page.locator("#boxes rect").all()]
        picture = page.locator("#canvas").bounding_box()
        centres = [(box["x"] + box["width"] / 2 - picture["x"]) / picture["width"] for box in boxes]
        assert np.allclose(centres, [(70 + 130 * place) / 420 for place in range(3)], atol=0.03)
        assert page.locator("#result .pixels").count() == 0
        press(page, "Clear")
        assert page.locator("#boxes rect").count() == 0
        for label, left in (("4", 0.05), ("2", 0.45)):
            draw(page, [[(left + x / 2, 0.2 + 0.6 * y) for x, y in stroke] for stroke in DIGITS[label]])
        wait_for_label(page, "42")
        assert page.locator("#boxes rect").count() == 2
