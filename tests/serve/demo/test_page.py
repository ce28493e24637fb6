"""The page in a real browser, and its API with the Gradio client.

$ZOO_SCREENSHOTS: a folder for screenshots. $ZOO_CHROMIUM: the browser, if it is not on PATH.
"""

import csv
import io
import os
import re
import shutil
import zipfile
from base64 import b64encode
from contextlib import contextmanager
from math import cos, sin
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from tests.support.browser import CHROMIUM
from tests.support.paths import CARD, DEFAULT, REPOSITORY, add_model
from tests.support.server import serving, wait_for
from zoo.card import Input
from zoo.images.prepare import prepare

pytestmark = pytest.mark.slow

EXAMPLES = REPOSITORY / "examples"
TIMEOUT_MS = 60_000  # the machine may be busy


def needs_browser(test):
    """Mark a test that drives a browser."""
    skip = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH; set ZOO_CHROMIUM to a browser")
    return pytest.mark.browser(skip(test))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of all models, with an empty folder of the user's own; `home` is $ZOO_HOME."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "home" / "models").mkdir(parents=True)
    with serving(folder, ZOO_HOME=str(folder / "home")) as server:
        server.home = folder / "home"
        yield server


@contextmanager
def opened(browser, server, name, **options):
    """Open the page. At the end, assert that it sent no request to another host and that no script failed.

    When the test fails, print the page's text and its messages, and the last lines of the server.
    """
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | options)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    hosts, script_errors, messages = set(), [], []
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("request", lambda request: hosts.add(re.sub(r"^\w+://([^/]*).*", r"\1", request.url)))
    page.on("pageerror", lambda error: script_errors.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector(".zoo-pad canvas[data-ready]")
    try:
        yield page
    except Exception:
        print("page:", page.locator("body").inner_text(), "console:", *messages, "server:", sep="\n")
        print(server.log[-3000:])
        raise
    page.wait_for_timeout(300)  # for late script errors
    if name and (folder := os.environ.get("ZOO_SCREENSHOTS")):
        page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)
    context.close()
    local = server.url.removeprefix("http://")
    assert {host for host in hosts if not host.startswith(("data:", "blob:"))} <= {local}
    assert not script_errors


def draw(page, strokes):
    """Draw strokes of points, whose coordinates are fractions of the canvas's side."""
    box = page.locator(".zoo-pad canvas").bounding_box()
    for stroke in strokes:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=8)
        page.mouse.up()


SEVEN = [[(0.3, 0.25), (0.7, 0.25), (0.48, 0.8)]]
ONE = [[(0.5, 0.2), (0.5, 0.8)]]


# Ten digits as people draw them: one or two strokes, without lifting the pen more than needed
DIGITS = {
    "0": [[(0.5 + 0.19 * sin(step / 3), 0.5 - 0.3 * cos(step / 3)) for step in range(20)]],
    "1": ONE,
    "2": [[(0.32, 0.32), (0.38, 0.23), (0.5, 0.2), (0.62, 0.24), (0.66, 0.34), (0.6, 0.48), (0.32, 0.78), (0.7, 0.78)]],
    "3": [[(0.34, 0.25), (0.5, 0.2), (0.63, 0.27), (0.62, 0.4), (0.47, 0.48), (0.64, 0.56), (0.66, 0.7), (0.52, 0.8),
           (0.34, 0.75)]],
    "4": [[(0.42, 0.2), (0.3, 0.55), (0.7, 0.55)], [(0.6, 0.35), (0.6, 0.82)]],
    "5": [[(0.65, 0.22), (0.38, 0.22), (0.36, 0.46), (0.54, 0.43), (0.66, 0.54), (0.64, 0.7), (0.5, 0.8),
           (0.33, 0.74)]],
    "6": [[(0.6, 0.2), (0.44, 0.36), (0.36, 0.58), (0.4, 0.76), (0.54, 0.8), (0.65, 0.7), (0.62, 0.56), (0.5, 0.52),
           (0.38, 0.62)]],
    "7": SEVEN,
    "8": [[(0.62, 0.28), (0.5, 0.2), (0.38, 0.28), (0.42, 0.42), (0.6, 0.58), (0.64, 0.72), (0.5, 0.81), (0.37, 0.72),
           (0.42, 0.57), (0.58, 0.42), (0.62, 0.28)]],
    "9": [[(0.62, 0.36), (0.54, 0.46), (0.41, 0.44), (0.37, 0.32), (0.46, 0.21), (0.58, 0.23), (0.62, 0.36), (0.6, 0.6),
           (0.54, 0.82)]],
}  # fmt: skip


@needs_browser
def test_ten_drawn_digits_are_read(browser, server):
    answers = {}
    with opened(browser, server, "ten-digits") as page:
        for digit, strokes in DIGITS.items():
            page.get_by_role("button", name="Clear").click()
            page.locator(".zoo-result:visible", has_text="answer appears here").wait_for()
            draw(page, strokes)
            page.locator(".zoo-time:visible").wait_for()
            page.wait_for_timeout(300)  # a second stroke
            answers[digit] = page.locator(".zoo-label:visible").inner_text()
    assert answers == {digit: digit for digit in DIGITS}


def wait_for_label(page, label):
    page.locator(".zoo-label:visible", has_text=re.compile(rf"^{label}$")).wait_for()


def choose_image(page):
    page.get_by_label("Image or camera").check()


def open_tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


@needs_browser
def test_answer_to_the_last_event_stays(browser, server):
    """A stroke reaches the server two seconds late. The page shows the answer to the image that was chosen after it."""
    delayed = []

    def delay_stroke(route):
        if not delayed:
            delayed.append(route)
            page.wait_for_timeout(2000)
        route.continue_()

    with opened(browser, server, None) as page:
        wait_for_label(page, "7")
        page.route("**/queue/join*", delay_stroke)
        draw(page, ONE)
        choose_image(page)
        upload(page, EXAMPLES / "two.jpg")
        page.wait_for_timeout(3000)
        wait_for_label(page, "2")
        assert '["draw"' in delayed[0].request.post_data


@needs_browser
def test_hidden_image_or_drawing_is_not_sent(browser, server):
    """Regression: an image that had expired behind the canvas made every stroke an error."""
    with opened(browser, server, None) as page:
        wait_for_label(page, "7")
        choose_image(page)
        with page.expect_request(
            lambda request: "two.jpg" in (request.post_data or "") and "join" in request.url
        ) as sent:
            upload(page, EXAMPLES / "two.jpg")
        assert sent.value.post_data_json["data"][1] == ""
        wait_for_label(page, "2")
        page.get_by_label("Draw", exact=True).check()
        wait_for_label(page, "7")
        with page.expect_request("**/queue/join*") as sent:
            draw(page, ONE)
        source, drawing, file, *_ = sent.value.post_data_json["data"]
        assert (source, drawing[:10], file) == ("draw", "data:image", None)
        wait_for_label(page, "1")


def remove_button(page):
    """The button that removes the image; it is there when an image is."""
    return page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).locator("visible=true").first


def upload(page, *files):
    page.locator("input[type=file]:not([disabled])").locator("visible=true").or_(
        page.locator("[role=tabpanel]:visible input[type=file]")
    ).first.set_input_files([str(file) for file in files])


@needs_browser
def test_drawing_is_classified_after_each_stroke(browser, server):
    with opened(browser, server, "draw") as page:
        draw(page, ONE)
        wait_for_label(page, "1")
        page.get_by_role("button", name="Clear").click()
        page.locator(".zoo-result:visible", has_text="answer appears here").wait_for()
        draw(page, SEVEN)
        wait_for_label(page, "7")
        assert page.locator(".zoo-pixels:visible").count() == 1
        assert " ms" in page.locator(".zoo-time:visible").inner_text()
        page.get_by_label("Show where the answer comes from").check()
        page.locator("figcaption:visible", has_text="Speaks for 7").wait_for()


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_first_screen_shows_an_example_with_its_answer(browser, server, width, height):
    with opened(browser, server, f"first-{width}", viewport={"width": width, "height": height}) as page:
        wait_for_label(page, "7")
        for part in (".zoo-pad canvas", ".zoo-label", ".zoo-columns"):
            box = page.locator(part).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height, part
        assert page.locator(".zoo-columns .zoo-name").all_inner_texts() == list("0123456789")
        page.locator(".zoo-pad canvas").focus()
        page.keyboard.press("Delete")
        page.locator(".zoo-result:visible", has_text="answer appears here").wait_for()


TABS = ["What is this?", "Look inside", "Compare", "Many images", "Models", "Benchmarks"]


@needs_browser
def test_every_tab_can_be_reached_on_a_phone(browser, server):
    phone = {"viewport": {"width": 320, "height": 700}, "has_touch": True, "is_mobile": True}
    with opened(browser, server, "tabs", **phone) as page:
        tabs = page.get_by_role("tab")
        assert [tab.strip() for tab in tabs.all_inner_texts()] == TABS
        assert len({tab.bounding_box()["y"] for tab in tabs.all()}) == 1, "one line"
        assert not page.get_by_label("More tabs").locator("visible=true").count()
        for name in reversed(TABS):
            page.get_by_role("tab", name=name, exact=True).tap()  # scrolls to it
            chosen = page.locator("[role=tab][aria-selected=true]", has_text=name)
            chosen.wait_for()
            page.wait_for_timeout(100)
            box = chosen.bounding_box()
            assert 0 < box["x"] + box["width"] / 2 < 320, "still visible"
        page.set_viewport_size({"width": 900, "height": 700})
        page.set_viewport_size({"width": 320, "height": 700})
        assert tabs.count() == len(TABS)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320


def picker_options(page):
    """The choices of models on the visible tab, opened."""
    options = page.get_by_role("option")
    for _ in range(30):  # an update of the choices closes them
        page.locator("[role=tabpanel]:visible .zoo-model input").click()
        page.wait_for_timeout(200)
        if texts := options.all_inner_texts():
            return [text.strip() for text in texts]
        page.locator("h1").click()
    raise AssertionError("no choices")


def names_of(options):
    return {option.lstrip("✓ \n").split(" ·")[0] for option in options}


@needs_browser
def test_own_models_come_and_go_while_the_server_runs(browser, server):
    with opened(browser, server, "own-models") as page:
        assert "mine.first" not in names_of(picker_options(page))
        folder = add_model(server.home, "mine.first")
        open_tab(page, "Many images")  # another tab is enough
        wait_for(lambda: "mine.first" in names_of(picker_options(page)))
        open_tab(page, "Models")
        page.locator(".zoo-table:visible td", has_text="mine.first").wait_for()
        assert httpx.get(f"{server.url}/models/mine.first").json()["name"] == "mine.first"
    with opened(browser, server, "own-model") as page:  # and so is a reload
        wait_for(lambda: "mine.first" in names_of(picker_options(page)))
        page.get_by_role("option", name=re.compile("^mine.first ·")).click()
        page.locator(".zoo-time:visible", has_text="mine.first").wait_for()
        wait_for_label(page, "7")
        shutil.rmtree(folder)
        with opened(browser, server, "other-visitor"):
            wait_for(lambda: httpx.get(f"{server.url}/models/mine.first").status_code == 404)
        draw(page, ONE)
        page.get_by_text("The model mine.first is not on this server, or no longer.").first.wait_for()
        page.reload()
        wait_for_label(page, "7")
        assert "Traceback" not in server.log


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_nothing_moves_when_the_answer_changes(browser, server, width, height):
    places = {}
    with opened(browser, server, f"still-{width}", viewport={"width": width, "height": height}) as page:
        for state, strokes in {"hint": [], "digit": ONE, "no digit": LETTER_E}.items():
            page.get_by_role("button", name="Clear").click()
            page.locator(".zoo-result:visible", has_text="answer appears here").wait_for()
            if strokes:
                draw(page, strokes)
                page.locator(".zoo-time:visible").wait_for()
                page.wait_for_timeout(500)
            places[state] = [
                page.locator(part).locator("visible=true").first.bounding_box()["y"]
                for part in (".zoo-pad canvas", ".zoo-answer input[type=checkbox]", ".zoo-model")
            ]
    assert places["hint"] == places["digit"] == places["no digit"]


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_has_no_serious_accessibility_problem(browser, server, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(browser, server, f"axe-{scheme}", color_scheme=scheme) as page:
        wait_for_label(page, "7")
        for tab in TABS:
            open_tab(page, tab)
            page.wait_for_timeout(300)  # colours fade
            if tab == "Look inside":
                button(page, "Example seven.png").click()
                page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).locator(
                    "visible=true"
                ).first.wait_for()
                button(page, "Show the layers").click()
                page.locator(".zoo-look[data-ready]").wait_for()
            if tab == "Compare":
                button(page, "Example two.jpg").click()
                page.locator(".zoo-table:visible").wait_for()
            found = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
            assert not found, (tab, [(one["id"], [node["html"] for node in one["nodes"]]) for one in found])


def test_link_preview_describes_the_page(server):
    tags = re.findall(r"<meta[^>]*>", httpx.get(server.url).text)
    assert '<meta property="og:title" content="pocketzoo: small image classifiers">' in tags
    assert not [tag for tag in tags if re.search("gradio|twitter|https?://", tag, re.IGNORECASE)]


LETTER_E = [[(0.65, 0.2), (0.35, 0.2), (0.35, 0.8), (0.65, 0.8)], [(0.35, 0.5), (0.6, 0.5)]]


def write_number(path):
    """A photograph-like page with the number 734."""
    page_of_digits = np.full((200, 420), 255, np.uint8)
    for place, name in enumerate(("seven.png", "three.png", "four.png")):
        pixels = prepare(str(EXAMPLES / name), Input(28, 28, 1, "digit"))[0][..., 0]
        page_of_digits[50:150, 20 + 130 * place : 120 + 130 * place] = 255 - cv2.resize(pixels, (100, 100))
    cv2.imwrite(str(path), page_of_digits)


@needs_browser
def test_letter_is_none_of_the_classes_and_a_number_has_boxes(browser, server, tmp_path):
    write_number(tmp_path / "number.png")
    with opened(browser, server, "number") as page:
        draw(page, LETTER_E)
        page.locator(".zoo-headline:visible", has_text="None of the classes").wait_for()
        choose_image(page)
        upload(page, tmp_path / "number.png")
        wait_for_label(page, "734")
        assert page.locator(".zoo-digits b").all_inner_texts() == ["7", "3", "4"]
        assert page.locator(".zoo-wide rect").count() == 3


@needs_browser
def test_maps_lie_on_the_image_and_on_each_digit_of_a_number(browser, server, tmp_path):
    write_number(tmp_path / "number.png")
    with opened(browser, server, "why-number") as page:
        choose_image(page)
        button(page, "Example five.jpg").click()
        wait_for_label(page, "5")
        page.get_by_label("Show where the answer comes from").check()
        map_of("Speaks for 5", page).wait_for()
        sizes = [map_of(caption, page).evaluate(SIZE) for caption in ("Your image", "Speaks for 5")]
        assert sizes[0] == sizes[1]
        if folder := os.environ.get("ZOO_SCREENSHOTS"):
            page.screenshot(path=Path(folder, "why.png"), full_page=True)
        upload(page, tmp_path / "number.png")
        wait_for_label(page, "734")
        map_of("Speaks for 734", page).wait_for()
        assert page.locator("figure:visible", has_text="Speaks for").count() == 2
        assert map_of("Speaks for 734", page).evaluate(SIZE) == map_of("3 digits", page).evaluate(SIZE)


SIZE = "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"


def map_of(caption, page):
    return page.locator("figure:visible", has_text=caption).locator("img").first


@needs_browser
def test_touch_drawing_on_dark_phone(browser, server):
    phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    with opened(browser, server, "phone", **phone) as page:
        box = page.locator(".zoo-pad canvas").bounding_box()
        session = page.context.new_cdp_session(page)

        def touch(kind, *points):
            at = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        touch("touchStart", SEVEN[0][0])
        for (x, y), (u, v) in zip(SEVEN[0], SEVEN[0][1:], strict=False):
            for step in range(1, 9):
                touch("touchMove", (x + (u - x) * step / 8, y + (v - y) * step / 8))
        touch("touchEnd")
        wait_for_label(page, "7")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert "dark" in page.evaluate("document.body.className")


@needs_browser
def test_keyboard_reaches_all_controls(browser, server):
    with opened(browser, server, "keyboard") as page:
        name_of_focus = """() => {
            const focused = document.activeElement;
            return (focused.innerText || focused.getAttribute("aria-label") || "").trim();
        }"""
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(name_of_focus))
        assert {"What is this?", "Undo", "Clear"} <= reached
        assert any(name.startswith("Canvas: draw with mouse") for name in reached)
        page.get_by_label("Image or camera").focus()
        page.keyboard.press("Space")
        page.get_by_text("Image: upload, paste, or use the camera").wait_for()


@needs_browser
def test_upload_photograph_and_switch_model(browser, server):
    from skimage import data

    with opened(browser, server, "picture") as page:
        choose_image(page)
        upload(page, EXAMPLES / "five.jpg")
        wait_for_label(page, "5")
        picker = page.locator(".zoo-model:visible input")
        picker.click()
        page.get_by_role("option", name=re.compile("^resnet8.plus ·")).click()
        page.locator(".zoo-result:visible", has_text="32x32").wait_for()
        remove_button(page).click()
        upload(page, Path(data.__file__).parent / "chelsea.png")
        wait_for_label(page, "cat")


def button(page, name):
    return page.locator("[role=tabpanel]:visible").get_by_role("button", name=name, exact=True)


@needs_browser
def test_example_images_can_be_clicked(browser, server):
    with opened(browser, server, "example") as page:
        choose_image(page)
        button(page, "Example five.jpg").click()
        wait_for_label(page, "5")
        captions = page.locator(".zoo-pair:visible figcaption").all_inner_texts()
        assert captions == ["Your image", "Ink found", "What the network sees, 28×28"]
        button(page, "Example two.jpg").focus()
        page.keyboard.press("Enter")
        wait_for_label(page, "2")
        button(page, "Example ship.jpg").click()  # chooses a model for photographs
        wait_for_label(page, "ship")
        captions = page.locator(".zoo-pair:visible figcaption").all_inner_texts()
        assert captions == ["Your image", "What the network sees, 32×32"]
        button(page, "Example seven.png").click()
        wait_for_label(page, "7")


@needs_browser
def test_webcam_and_clipboard_images(browser, server):
    allowed = ["camera", "clipboard-read", "clipboard-write"]
    with opened(browser, server, "webcam", permissions=allowed) as page:
        choose_image(page)
        button(page, "Capture from camera").click()
        button(page, "Click to Access Webcam").click()
        page.wait_for_function("[...document.querySelectorAll('video')].some(v => v.readyState > 2 && v.videoWidth)")
        button(page, "capture photo").click()
        page.locator(".zoo-label:visible", has_not_text="7").or_(page.locator(".zoo-time:visible")).first.wait_for()
        remove_button(page).click()
        page.locator(".zoo-result:visible", has_text="answer appears here").wait_for()
        seven = b64encode((EXAMPLES / "seven.png").read_bytes()).decode()
        page.evaluate(
            """async (data) => {
                const picture = await (await fetch("data:image/png;base64," + data)).blob();
                await navigator.clipboard.write([new ClipboardItem({"image/png": picture})]);
            }""",
            seven,
        )
        button(page, "Paste from clipboard").click()
        wait_for_label(page, "7")


@needs_browser
@pytest.mark.parametrize("name", ["broken.png", "photo.heic"])
def test_unreadable_file_shows_message(browser, server, name, tmp_path):
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    with opened(browser, server, f"unreadable-{name}") as page:
        choose_image(page)
        upload(page, tmp_path / name)
        page.locator(".zoo-headline:visible", has_text="No answer").wait_for()
        text = page.locator("body").inner_text()
        assert "Could not preprocess" not in text
        assert "/tmp" not in text


@needs_browser
def test_submit_without_image_shows_hint(browser, server):
    with opened(browser, server, "empty") as page:
        open_tab(page, "Many images")
        page.get_by_role("button", name="Classify all").click()
        page.get_by_text(re.compile("^Choose files first")).wait_for()
        open_tab(page, "Look inside")
        page.get_by_role("button", name="Show the layers").click()
        page.locator(".zoo-hint:visible", has_text=re.compile("^Choose an image first")).wait_for()


@needs_browser
def test_compare_lists_all_models(browser, server):
    with opened(browser, server, "compare") as page:
        open_tab(page, "Compare")
        upload(page, EXAMPLES / "seven.png")
        rows = page.locator("[role=tabpanel]:visible .zoo-table tbody tr")
        rows.nth(1).wait_for()
        texts = rows.all_inner_texts()
        assert any(row.startswith(f"{DEFAULT}\t7\t") for row in texts)
        assert any(row.startswith("mnist16k.notes\t7\t") for row in texts)
        assert sum("fastest" in row for row in texts) == 1
        page.locator("th button", has_text="latency").locator("visible=true").click()
        latencies = [float(row.split("\t")[3].split()[0]) for row in rows.all_inner_texts()]
        assert latencies == sorted(latencies)
        assert "fastest" in rows.first.inner_text()


@needs_browser
def test_look_inside_draws_the_receptive_field_of_a_unit(browser, server):
    with opened(browser, server, "inside") as page:
        open_tab(page, "Look inside")
        button(page, "Example seven.png").click()
        remove_button(page).wait_for()
        page.get_by_role("button", name="Show the layers").click()
        page.locator(".zoo-look[data-ready]").wait_for()
        assert page.locator("[data-layer]").count() == len(CARD.layers)
        page.locator("[data-layer]", has_text="conv2").click()  # two 3x3 convolutions: 5x5
        page.locator(".zoo-panel:visible", has_text="conv2").wait_for()
        box = page.locator(".zoo-unit-map").bounding_box()
        page.mouse.move(box["x"] + 0.51 * box["width"], box["y"] + 0.02 * box["height"])
        page.locator(".zoo-unit", has_text="row 1, column 13 of map 1").wait_for()
        assert field_of(page) == (12, 0, 5, 5)
        page.locator(".zoo-unit-map").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.locator(".zoo-unit", has_text="row 2, column 14 of map 1").wait_for()
        assert field_of(page) == (13, 1, 5, 5)
        page.locator(".zoo-maps:visible").focus()
        page.keyboard.press("ArrowRight")
        page.locator(".zoo-unit", has_text="row 2, column 14 of map 2").wait_for()
        assert "Padding" in page.locator(".zoo-terms:visible").inner_text()
        drawn = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
        assert page.locator(".zoo-maps:visible").evaluate(drawn) > 20
        page.locator("[data-layer]").last.click()
        page.locator(".zoo-unit", has_text="It sees the whole input.").wait_for()
        page.locator(".zoo-panel:visible .zoo-columns").wait_for()


def field_of(page):
    """The rectangle on the input: x, y, width and height."""
    (rectangle,) = page.locator(".zoo-look-pictures rect").all()
    return tuple(int(rectangle.get_attribute(name)) for name in ("x", "y", "width", "height"))


@needs_browser
def test_tapping_a_map_on_a_phone_chooses_its_unit(browser, server):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    with opened(browser, server, "inside-phone", **phone) as page:
        open_tab(page, "Look inside")
        button(page, "Example cat.jpg").tap()
        remove_button(page).wait_for()
        page.wait_for_timeout(1000)  # the choices of models are refreshed meanwhile
        assert "photographs" in page.locator("[role=tabpanel]:visible .zoo-model input").input_value()
        page.get_by_role("button", name="Show the layers").tap()
        page.locator(".zoo-look[data-ready]").wait_for()
        page.locator("[data-layer]").nth(1).tap()
        page.locator("li:nth-child(2) > [data-layer][aria-pressed=true]").wait_for()  # the maps are drawn
        maps = page.locator(".zoo-maps:visible")
        box = maps.bounding_box()
        maps.tap(position={"x": 0.55 * box["width"], "y": 0.1 * box["height"]})
        page.locator(".zoo-unit", has_text=re.compile("of map 5: .* It sees .* pixels of the input")).wait_for()
        assert page.locator(".zoo-look-pictures rect").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@needs_browser
def test_benchmarks_show_the_report_and_this_machine(browser, server):
    with opened(browser, server, "benchmarks") as page:
        open_tab(page, "Benchmarks")
        plot = page.locator(".zoo-plots svg:visible").first
        plot.wait_for()
        assert plot.locator("circle.zoo-dot-report").count() == plot.locator("circle.zoo-dot-here").count() > 5
        described = plot.get_attribute("aria-label")
        assert re.search(rf"{DEFAULT} 99\.60%, [\d.]+ ms for one image, [\d.]+ in the report", described)
        page.get_by_text(re.compile(r"^Here, one image takes [\d.]+ times as long")).wait_for()
        button(page, "Measure again").click()
        page.wait_for_function("text => document.querySelector('.zoo-plots svg').ariaLabel !== text", arg=described)


@needs_browser
def test_batch_gives_table_and_file(browser, server, tmp_path):
    with zipfile.ZipFile(tmp_path / "digits.zip", "w") as archive:
        for name in ("seven.png", "two.jpg"):
            archive.write(EXAMPLES / name, name)
        archive.writestr("broken.png", b"\x89PNG\r\n\x1a\nbroken")
    with opened(browser, server, "batch") as page:
        open_tab(page, "Many images")
        upload(page, tmp_path / "digits.zip", EXAMPLES / "five.jpg")
        page.locator("[role=tabpanel]:visible .file-preview tr").nth(1).wait_for()
        page.get_by_role("button", name="Classify all").click()
        rows = page.locator("[role=tabpanel]:visible .zoo-table tbody tr")
        rows.nth(3).wait_for()
        table = [text.strip().split("\t") for text in rows.all_inner_texts()]
        assert [(cells[0].strip(), cells[1]) for cells in table] == [
            ("digits.zip/seven.png", "7"),
            ("digits.zip/two.jpg", "2"),
            ("digits.zip/broken.png", "–"),
            ("five.jpg", "5"),
        ]
        page.get_by_label("errors").check()
        assert [row.is_visible() for row in rows.all()] == [False, False, True, False]
        with page.expect_download() as download:
            page.locator(".zoo-rows a").first.click()
        text = Path(download.value.path()).read_text()
    records = list(csv.DictReader(io.StringIO(text)))
    assert [(row["input"], row["label"]) for row in records][:2] == [
        ("digits.zip/seven.png", "7"),
        ("digits.zip/two.jpg", "2"),
    ]
    assert "is damaged" in records[2]["error"] or "not a supported image" in records[2]["error"]


def test_gradio_client_works(server, tmp_path):
    from gradio_client import Client, handle_file

    client = Client(server.url, verbose=False, download_files=str(tmp_path))
    shown, row = client.predict(handle_file(EXAMPLES / "seven.png"), DEFAULT, "crop", False, api_name="/predict")
    assert (row["label"], row["model"], row["error"]) == ("7", DEFAULT, None)
    assert "What the network sees" in shown
    table = client.predict(handle_file(EXAMPLES / "seven.png"), "digit", api_name="/compare")
    assert re.search(r"<td>mnist16k.notes</td><td[^>]*>7</td>", table)
    table, rows = client.predict([handle_file(EXAMPLES / "two.jpg")], DEFAULT, "parquet", api_name="/batch")
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(rows).column("label").to_pylist() == ["2"]
    (tmp_path / "cut.png").write_bytes((EXAMPLES / "seven.png").read_bytes()[:500])
    shown, row = client.predict(handle_file(tmp_path / "cut.png"), DEFAULT, "crop", False, api_name="/predict")
    assert "No answer" in shown
    assert row["label"] is None
    assert row["error"]


INVALID_DRAWINGS = ["%%%", "data:image/png;base64,%%%", "data:image/png;base64,abc", "data:text/plain;base64,AAAA", 7,
         "data:image/png;base64," + "%" * 900_000]  # fmt: skip


@pytest.mark.parametrize("drawing", INVALID_DRAWINGS, ids=lambda drawing: str(drawing)[:30])
def test_invalid_drawing_returns_error(server, drawing):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    before = len(server.log)
    client = Client(server.url, verbose=False, download_files=False)
    with pytest.raises(AppError, match=r"drawing must be a data URL.*data:image/png"):
        client.predict(drawing, DEFAULT, False, api_name="/draw")
    assert "Traceback" not in server.log[before:]


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [("GET", "/nowhere", 404, None), ("DELETE", "/", 405, "GET, HEAD"), ("PUT", "/config", 405, "GET")],
)
def test_unknown_route_returns_json_error(server, method, path, status, allowed):
    answer = httpx.request(method, server.url + path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert f"{method} {path}" in answer.json()["error"]
    assert answer.headers.get("allow") == allowed


def test_server_removes_temporary_files(tmp_path):
    from gradio_client import Client, handle_file

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with serving(tmp_path, "--models", "mnist14k*", TMPDIR=str(temporary)) as server:
        client = Client(server.url, verbose=False, download_files=False)
        client.predict([handle_file(EXAMPLES / "two.jpg")], DEFAULT, "csv", api_name="/batch")
        client.predict(handle_file(EXAMPLES / "two.jpg"), DEFAULT, api_name="/inside")
        (folder,) = temporary.iterdir()
        assert len(list(folder.glob("files/*/rows.csv"))) == 1
        assert not list(folder.glob("files/*/*.png")), "what is shown inside the page needs no file"
        assert server.stop() == 0
    assert list(temporary.iterdir()) == []


@needs_browser
def test_page_of_photo_models_only(browser, tmp_path):
    with serving(tmp_path, "--models", "cifar90k*") as server:
        page = browser.new_page()
        page.goto(server.url)
        button(page, "Example ship.jpg").click()
        wait_for_label(page, "ship")
        assert not page.locator(".zoo-pad, .zoo-switch").locator("visible=true").count()
        page.close()


@needs_browser
def test_page_works_with_two_processes(browser, tmp_path):
    """A file that was uploaded through one process is there for a request to the other."""
    from gradio_client import Client, handle_file

    with serving(tmp_path, "--workers", "2", "--models", "mnist14k*") as server:
        assert "2 processes" in server.log
        for _ in range(4):
            client = Client(server.url, verbose=False, download_files=False)
            _, row = client.predict(handle_file(EXAMPLES / "two.jpg"), DEFAULT, "crop", False, api_name="/predict")
            assert row["label"] == "2"
        with opened(browser, server, "two-processes") as page:
            draw(page, SEVEN)
            wait_for_label(page, "7")
        assert server.stop() == 0


SCREENS = {  # files in docs/, and how they come about
    "page": ("light", 1280, 800, lambda page, _: None),
    "page-dark": ("dark", 1280, 800, lambda page, _: None),
    "page-phone": ("light", 390, 844, lambda page, _: None),
    "page-number": ("light", 1280, 800, lambda page, folder: show_number(page, folder)),
    "page-photo": ("light", 1280, 800, lambda page, _: show_photograph(page)),
    "page-inside": ("light", 1280, 800, lambda page, _: show_layer(page)),
    "page-inside-phone": ("dark", 390, 844, lambda page, _: show_layer(page)),
    "page-benchmarks": ("light", 1280, 800, lambda page, _: open_tab(page, "Benchmarks")),
}


def show_number(page, folder):
    write_number(folder / "number.png")
    choose_image(page)
    upload(page, folder / "number.png")
    wait_for_label(page, "734")


def show_photograph(page):
    choose_image(page)
    button(page, "Example cat.jpg").click()
    wait_for_label(page, "cat")
    page.get_by_label("Show where the answer comes from").check()
    page.locator("figcaption:visible", has_text="Speaks for cat").wait_for()


def show_layer(page):
    open_tab(page, "Look inside")
    button(page, "Example five.jpg").click()
    remove_button(page).wait_for()
    page.get_by_role("button", name="Show the layers").click()
    page.locator(".zoo-look[data-ready]").wait_for()
    page.locator("[data-layer]").nth(1).click()
    page.locator(".zoo-panel:visible", has_text="conv2").wait_for()
    page.locator(".zoo-layers").scroll_into_view_if_needed()
    page.evaluate("""() => {
        const top = innerWidth < 500 ? document.querySelector(".zoo-layers").getBoundingClientRect().top - 16 : -1e5;
        scrollBy(0, top);
    }""")


@needs_browser
@pytest.mark.parametrize("name", SCREENS)
def test_screens_of_the_documentation(browser, server, name, tmp_path):
    """Write docs/page*.png: `ZOO_SCREENSHOTS=docs pytest tests/serve/demo/test_page.py -k documentation`."""
    folder = os.environ.get("ZOO_SCREENSHOTS")
    if not folder:
        pytest.skip("writes screenshots only if ZOO_SCREENSHOTS names a folder")
    scheme, width, height, act = SCREENS[name]
    with opened(browser, server, None, color_scheme=scheme, viewport={"width": width, "height": height}) as page:
        wait_for_label(page, "7")
        act(page, tmp_path)
        page.wait_for_timeout(700)
        page.screenshot(path=Path(folder, f"{name}.png"))
