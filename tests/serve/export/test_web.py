"""`zoo export --format web`: its files, and the page in a real browser."""

import functools
import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest

import serve
from serve.export.web import PAGE, site
from tests.serve.demo.test_page import CHROMIUM, FLAGS
from zoo.model import load, onnx_bytes

ROOT = Path(__file__).parents[3]
WEB = Path(serve.__file__).parent / "web"
LARGEST_SITE = 13_500_000  # bytes, with the runtime and a model
LARGEST_PAGE = 300_000  # bytes, without them


def test_files_stay_within_their_budget_and_hold_the_unchanged_models():
    model = load("mnist14k.plus", "cpu")
    files = site({"mnist14k.plus": (model.card, onnx_bytes(model))})
    assert files["models/0.onnx"] == onnx_bytes(model)
    assert sum(map(len, files.values())) <= LARGEST_SITE
    assert sum(len(files[name]) for name in PAGE) <= LARGEST_PAGE
    kept = json.loads(files["files.json"])["files"]
    assert set(kept) - {"./"} <= set(files)


def test_the_built_page_belongs_to_its_sources():
    sources = sorted((WEB / "src").glob("*.ts"), key=lambda path: path.name)
    weights = WEB.parents[1] / "zoo" / "images" / "numbers.json"
    content = b"".join(path.read_bytes() for path in [*sources, WEB / "package.json", weights])
    recorded = (WEB / "static" / "sources.sha256").read_text(encoding="utf-8").strip()
    assert hashlib.sha256(content).hexdigest() == recorded, "run serve/web/build.sh"


def test_a_folder_of_other_files_is_not_replaced(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    status, *_ = run("export", "mnist14k.plus", "--format", "web", "--to", tmp_path, "--force")
    assert status != 0
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def address(run, tmp_path):
    assert run("export", "mnist14k.plus", "cifar90k.plus", "--format", "web", "--to", tmp_path / "site")[0] == 0
    handler = functools.partial(_Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/site/"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_page_reads_pictures_offline_and_asks_no_other_host(address):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        context = browser.new_context(viewport={"width": 390, "height": 844})
        page = context.new_page()
        requests, problems = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
        for reload in (False, True):
            if reload:
                context.set_offline(True)
                page.reload()
                page.wait_for_selector("body[data-ready]")
            pad = page.locator("#pad").bounding_box()
            page.mouse.move(pad["x"] + 100, pad["y"] + 80)
            page.mouse.down()
            for x, y in ((230, 80), (150, 260)):
                page.mouse.move(pad["x"] + x, pad["y"] + y, steps=5)
            page.mouse.up()
            expect(page.locator("#answer")).to_have_text("7")
            page.set_input_files("#file", ROOT / "examples" / "five.jpg")
            expect(page.locator("#answer")).to_have_text("5")
            page.select_option("#model", "cifar90k.plus")
            page.set_input_files("#file", ROOT / "examples" / "cat.jpg")
            expect(page.locator("#answer")).to_have_text("cat")
            page.select_option("#model", "mnist14k.plus")
        assert all(url.startswith((address, "data:", "blob:")) for url in requests)
        assert not problems
