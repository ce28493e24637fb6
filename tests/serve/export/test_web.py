"""`zoo export --format web`: its files. `test_web_page.py` opens the page."""

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from serve.export.web import PAGE, SERVICE_WORKER, site
from zoo.loading import load
from zoo.model import onnx_bytes

ROOT = Path(__file__).parents[3]
WEB = ROOT / "serve" / "web"
LARGEST_SITE = 13_500_000  # bytes, with the runtime and two models
LARGEST_PAGE = 300_000  # bytes, without them
RUNTIME = "onnxruntime-web-1.21.1/"


def make_site(*names):
    models = {name: load(name, "cpu") for name in names}
    return site({name: (model.card, onnx_bytes(model)) for name, model in models.items()})


@pytest.fixture(scope="module")
def files():
    return make_site("mnist14k.plus", "cifar90k.plus")


def definition(files):
    """The version and the files that the service worker keeps."""
    return json.loads(re.match(r"const SITE = (.*);\n", files[SERVICE_WORKER].decode())[1])


def test_files_stay_within_their_budget(files):
    assert sum(map(len, files.values())) <= LARGEST_SITE
    page = [content for name, content in files.items() if not name.startswith((RUNTIME, "models/"))]
    assert sum(map(len, page)) <= LARGEST_PAGE


def test_models_are_unchanged_and_named_by_their_content(files):
    entries = json.loads(files["models.json"])["models"]
    assert [entry["name"] for entry in entries] == ["mnist14k.plus", "cifar90k.plus"]
    for entry in entries:
        assert files[entry["file"]] == onnx_bytes(load(entry["name"], "cpu"))
        assert Path(entry["file"]).stem == hashlib.sha256(files[entry["file"]]).hexdigest()[:16]


def test_examples_are_of_the_forms_that_the_models_take(files):
    assert {example["form"] for example in json.loads(files["models.json"])["examples"]} == {"digit", "photo"}
    digits_only = make_site("mnist14k.plus")
    assert {example["form"] for example in json.loads(digits_only["models.json"])["examples"]} == {"digit"}
    assert "examples/cat.jpg" not in digits_only
    for content in (files, digits_only):
        assert {example["file"] for example in json.loads(content["models.json"])["examples"]} <= set(content)


def test_service_worker_keeps_all_files_and_names_the_export(files):
    assert set(definition(files)["files"]) == {"./", *files} - {SERVICE_WORKER}
    assert definition(files) == definition(make_site("mnist14k.plus", "cifar90k.plus"))
    assert definition(files)["version"] != definition(make_site("mnist10k.plus", "cifar90k.plus"))["version"]


def test_licences_of_the_runtime_and_its_parts_are_in_the_site(files):
    licence, notices = files[f"{RUNTIME}LICENSE"].decode(), files[f"{RUNTIME}ThirdPartyNotices.txt"].decode()
    assert "MIT License" in licence
    for part in ("emscripten", "Eigen", "protobuf", "flatbuffers", "abseil"):
        assert part in notices


def test_page_links_to_files_of_the_site(files):
    links = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attributes):
            links.extend(value for name, value in attributes if name in ("href", "src"))

    Links().feed(files["index.html"].decode())
    assert {"app.js", "style.css", f"{RUNTIME}LICENSE"} <= set(links) <= set(files)
    assert set(PAGE) <= set(files)


def test_file_hosts_know_the_types_of_the_programs(files):
    """A browser runs no module of another type. nginx, for one, does not know .mjs."""
    assert not [name for name in files if name.endswith(".mjs")]
    assert {f"{RUNTIME}ort-wasm-simd-threaded.{kind}" for kind in ("js", "wasm")} <= set(files)


def test_damaged_runtime_is_refused(monkeypatch):
    from zoo.errors import ExportError

    monkeypatch.setattr("serve.export.web.lzma.decompress", lambda content: b"damaged")
    with pytest.raises(ExportError, match="onnxruntime-web is damaged"):
        make_site("mnist14k.plus")


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
