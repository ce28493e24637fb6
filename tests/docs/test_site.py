"""The documentation site: every page has its place, links lead where they should, built pages ask no other host."""

import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import PurePosixPath

import pytest

import zoo
from docs.build import site
from serve.cli.main import COMMANDS
from tests.support.examples import REPOSITORY
from tests.support.server import find_browser

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data"), ("embed", "src")}
LINK_KINDS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "manifest"}


def test_every_page_is_in_the_navigation_once():
    pages = list(site.pages().values())
    placed = [path for _, paths in site.navigation(pages) for path in paths]
    assert sorted(placed) == sorted(pages)


def test_new_guides_and_decisions_find_their_place():
    new = [PurePosixPath("guides/zebra.md"), PurePosixPath("decisions/0099-new.md"), PurePosixPath("new.md")]
    assert dict(site.navigation(new)) == {"Guides": new[:1], "Decisions": new[1:2], "Project": new[2:]}


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("docs/guides/hub.md", "[a](../../ARCHITECTURE.md#tree)", "[a](../architecture.md#tree)"),
        ("docs/guides/hub.md", "[a](../../README.md)", "[a](../index.md)"),
        ("docs/guides/hub.md", "[the `file`](../../Dockerfile)", "the `file`"),
        ("docs/guides/hub.md", "[a](grpc.md#speed)", "[a](../guides/grpc.md#speed)"),
        ("docs/index.md", "![a](examples.png)", "![a](examples.png)"),
        ("CHANGELOG.md", "[a](docs/accuracy.md), [b](SECURITY.md)", "[a](accuracy.md), [b](security.md)"),
        ("CHANGELOG.md", "[a](#top) [b](https://example.org/x.md)", "[a](#top) [b](https://example.org/x.md)"),
        ("CHANGELOG.md", "```\n[a](nowhere.md)\n```", "```\n[a](nowhere.md)\n```"),
    ],
)
def test_links_are_adapted_to_the_site(page, link, expected):
    assert site.relink(link, REPOSITORY / page, site.pages()) == expected


def test_link_to_a_missing_file_is_an_error():
    with pytest.raises(ValueError, match=r"CHANGELOG\.md: the link 'docs/nowhere\.md'"):
        site.relink("[a](docs/nowhere.md)", REPOSITORY / "CHANGELOG.md", site.pages())


def test_api_page_has_every_public_name():
    page = (REPOSITORY / "docs" / "reference" / "api.md").read_text()
    assert sorted(re.findall(r"^::: zoo\.(\w+)$", page, re.MULTILINE)) == sorted(zoo.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["index.md", "quickstart.md", "guides/predict.md"])
def test_commands_and_python_of_a_page_work(page):
    """Blocks of the kinds `sh` and `python`. Those of the kind `console` need files or packages of the user's own."""
    text = (REPOSITORY / "docs" / page).read_text()
    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    python = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert shell
    script = f'set -e\nzoo() {{ "{sys.executable}" -m serve.cli "$@"; }}\n{shell}'
    for arguments in (["bash", "-c", script], [sys.executable, "-c", python]):
        done = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        output = re.search(r"^```\n(image .*?)^```", text, re.DOTALL | re.MULTILINE)
        assert arguments[0] != "bash" or output is None or output[1] in done.stdout


class Requests(HTMLParser):
    """Collects the addresses that a browser requests when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [values[name] or "" for element, name in LOADED if element == tag and name in values]
        if tag == "link" and LINK_KINDS & set((values.get("rel") or "").split()):
            self.addresses.append(values.get("href") or "")


def requests(html: str) -> list[str]:
    parser = Requests()
    parser.feed(html)
    return parser.addresses


def foreign(address: str) -> bool:
    return bool(re.match(r"(?:https?:)?//", address))


def test_foreign_addresses_are_found():
    page = '<script src="//a/x.js"></script><link rel="stylesheet" href="https://b/c.css"><a href="https://d">'
    assert [address for address in requests(page) if foreign(address)] == ["//a/x.js", "https://b/c.css"]


@pytest.fixture(scope="module")
def built():
    """The folder of the site, built as CI builds it."""
    if find_spec("zensical") is None:
        pytest.skip("the extra `docs` is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "docs.build.site"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return site.SITE


@pytest.mark.slow
def test_built_pages_are_complete_and_name_no_other_host(built):
    pages = {path: path.read_text() for path in built.rglob("*.html")}
    assert len(pages) > len(site.pages())  # and 404.html
    assert not [(path, address) for path, html in pages.items() for address in requests(html) if foreign(address)]
    styles = {path: path.read_text() for path in built.rglob("*.css")}
    assert styles
    assert not [path for path, css in styles.items() if re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", css)]
    commands, api = (pages[built / "reference" / name] for name in ("cli.html", "api.html"))
    assert all(f"zoo {name}" in commands for name in COMMANDS)
    assert all(f'id="zoo.{name}"' in api for name in zoo.__all__)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH; set ZOO_CHROMIUM to a browser")
def test_browser_asks_no_other_host_and_search_answers(built):
    from playwright.sync_api import sync_playwright

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=built))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=find_browser(), args=["--headless", "--no-sandbox", "--disable-background-networking"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            requested: list[str] = []
            page.on("request", lambda request: requested.append(request.url))
            for name in ("index.html", "benchmarks.html", "reference/api.html", "models/mnist14k.plus.html"):
                page.goto(address + name, wait_until="networkidle")
            page.keyboard.press("Control+k")
            page.keyboard.type("calibration run", delay=10)
            page.get_by_text(re.compile(r"^\d+ results?$")).wait_for(timeout=20_000)
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
    assert requested
    assert not [url for url in requested if not url.startswith((address, "data:", "blob:"))]
