"""`zoo push` and `zoo pull` with huggingface_hub's real client and a stand-in of the hub's HTTP interface."""

import json
import pickle
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import zoo
from tests.support import hub as stand_in
from tests.support.command import run as run  # a fixture
from tests.support.command import zoo as command
from tests.support.hub import READ_TOKEN, TOKEN
from tests.support.paths import DEFAULT, add_model
from zoo import registry
from zoo.errors import BadModel, ModelNotFound, WrongUsage, ZooError
from zoo.hub import FILES, HubError, page, pull, push
from zoo.verify import verify

pytest.importorskip("huggingface_hub", reason="needs the extra hub")
# huggingface_hub's own use of its HTTP library
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

REPOSITORY = "me/digits"


@pytest.fixture(scope="module")
def server():
    with stand_in.hub() as server:
        yield server


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """An empty hub, to which huggingface_hub talks with a token that may write, and with an empty cache."""
    from huggingface_hub import constants

    for attribute in (server.repositories, server.requests, server.claimed_sizes, server.corrupt, server.cut):
        attribute.clear()
    server.down = False
    monkeypatch.delenv("ZOO_DATA", raising=False)  # no accuracy in `zoo verify`
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    return server


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """The files of a model `mine.a`, by name."""
    folder = add_model(tmp_path_factory.mktemp("elsewhere"), "mine.a", default=False)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def installed(home):
    """Everything in the folder of models, hidden files included."""
    return sorted(str(path.relative_to(home / "models")) for path in (home / "models").rglob("*"))


def with_card(files, **changes):
    """The files with another card beside the network and inside it."""
    import hashlib

    import onnx

    card = json.loads(files["card.json"]) | changes
    model = onnx.load_from_string(files["model.onnx"])
    model.metadata_props[0].value = json.dumps(card | {"files": []})
    content = model.SerializeToString()
    for file in card["files"]:
        if file["name"] == "model.onnx":
            file |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return files | {"model.onnx": content, "card.json": json.dumps(card).encode()}


def test_a_pushed_model_is_pulled_to_the_bit(hub, empty_home, monkeypatch, tmp_path):
    folder = add_model(empty_home, "mine.a", default=False)
    pushed = push("mine.a", REPOSITORY, message="first")
    repository = hub.repositories[REPOSITORY]
    assert pushed.commit == repository.branches["main"]
    assert repository.messages[pushed.commit] == "first"
    assert set(repository.files()) == {*FILES, "README.md", ".gitattributes"}
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)  # the client chose LFS for large files

    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "other"))
    pulled = pull(REPOSITORY)
    assert (pulled.previous, pulled.source.commit, pulled.source.revision) == (None, pushed.commit, None)
    entry = registry.find("mine.a")
    for name in FILES:
        assert entry.read(name) == (folder / name).read_bytes()
    assert entry.source() == pulled.source
    assert [file.name for file in pulled.source.files] == sorted(FILES)
    assert not [check for check in verify(entry) if check.passed is False]
    image = np.zeros((1, 28, 28, 1), np.uint8)
    expected = zoo.load(folder).run(image).logits
    assert np.array_equal(zoo.load("mine.a").run(image).logits, expected)


def test_model_card_is_valid_for_the_hub(model_files):
    """huggingface_hub's own classes read it, and its code block runs."""
    from huggingface_hub import ModelCard

    for card in (*zoo.list_models(), zoo.card.Card.from_json(model_files["card.json"].decode(), "card.json")):
        parsed = ModelCard(page(card, REPOSITORY))
        (result,) = parsed.data.eval_results
        assert parsed.data.model_name == card.name
        assert (result.task_type, result.metric_type) == ("image-classification", "accuracy")
        assert result.metric_value == pytest.approx(card.accuracy.value, abs=5e-5)
        assert result.dataset_type in ("ylecun/mnist", "uoft-cs/cifar10")
        assert parsed.data.datasets == [result.dataset_type]
        assert (parsed.data.license, parsed.data.library_name) == ("apache-2.0", "onnx")


def test_model_card_of_other_peoples_data_and_licences(model_files):
    from huggingface_hub import ModelCard

    fields = json.loads(model_files["card.json"])
    fields["dataset"] = {"name": "cats", "title": "my: cats # 'and' \"dogs\" 😀", "licence": "mine", "source": "home"}
    fields["training"]["environment"] = {}
    card = zoo.card.Card.from_json(json.dumps(fields | {"licence": "Do what: you want"}), "card.json")
    data = ModelCard(page(card, REPOSITORY)).data
    assert (data.license, data.license_name) == ("other", "Do what: you want")
    assert data.datasets is None
    assert data.eval_results[0].dataset_name == fields["dataset"]["title"]


@pytest.mark.parametrize("counted", [{}, {"images": {"train": 1_600, "test": 300}, "sha256": "a" * 64}])
def test_model_card_of_a_fitted_model(model_files, counted):
    from huggingface_hub import ModelCard

    fields = json.loads(model_files["card.json"])
    fields["dataset"] = {"name": "own", "title": "mugs", "licence": "not stated", "source": "own images", **counted}
    text = page(zoo.card.Card.from_json(json.dumps(fields | {"licence": "not stated"}), "card.json"), REPOSITORY)
    data = ModelCard(text).data
    assert (data.license, data.license_name) == ("unknown", None)
    assert (data.eval_results[0].dataset_type, data.eval_results[0].dataset_name) == ("imagefolder", "mugs")
    assert "own" not in data.tags
    assert data.datasets is None
    facts = f"1,600 train, 300 test; sha256 {'a' * 64}" if counted else "not counted"
    assert f"Dataset: mugs, images of the model's author: {facts}." in text


def test_model_card_shows_code_that_runs(model_files, tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(model_files["model.onnx"])
    monkeypatch.chdir(tmp_path)
    card = zoo.card.Card.from_json(model_files["card.json"].decode(), "card.json")
    code = re.search(r"```python\n(.*?)```", page(card, REPOSITORY), re.DOTALL)[1]
    names = {"images": np.zeros((3, 28, 28, 1), np.uint8)}
    exec(code, names)
    assert names["probabilities"].shape == (3, 10)


def test_pull_again_says_what_changed(hub, empty_home, model_files, run):
    repository = hub.add(REPOSITORY, model_files)
    first = repository.branches["main"]
    version = json.loads(model_files["card.json"])["version"]
    assert run("pull", REPOSITORY)[1].startswith(f"Pulled mine.a {version} from {REPOSITORY}@{first[:12]}: card.json")
    hub.requests.clear()
    assert run("pull", REPOSITORY)[1] == f"mine.a {version} is up to date: {REPOSITORY}@{first[:12]}\n"
    assert not [request for request in hub.requests if "model.onnx" in request]

    repository.commit({"notes.txt": b"nothing of the model"})
    code, out, _ = run("pull", REPOSITORY)
    assert (code, out.splitlines()[1].strip()) == (0, "no file of the model differs")

    second = repository.commit(with_card(model_files, version="2.0.0", title="a better one"))
    code, out, _ = run("pull", REPOSITORY)
    assert f"from {REPOSITORY}@" in out.splitlines()[0]
    assert f"version: {version} → 2.0.0" in out
    assert "model.onnx: sha256" in out
    assert "model.safetensors" not in out
    assert registry.find("mine.a").card.version == "2.0.0"

    pulled = json.loads(run("pull", f"{REPOSITORY}@{first}", "--json")[1])  # and back, to a pinned commit
    assert (pulled["model"], pulled["source"]["commit"]) == ("mine.a", first)
    assert pulled["changed"] == ["card.json", "model.onnx"]
    assert second != first
    assert [name for name in installed(empty_home) if name.startswith(".")] == []


@pytest.mark.parametrize("revision", ["v1", "main", "refs/pr/1"])
def test_branches_and_tags(hub, empty_home, model_files, revision):
    repository = hub.add(REPOSITORY, model_files)
    repository.branches[revision] = repository.branches["main"]
    source = pull(f"{REPOSITORY}@{revision}").source
    assert (source.revision, source.commit) == (revision, repository.branches["main"])


def test_push_to_a_private_repository_and_a_branch(hub, empty_home):
    add_model(empty_home, "mine.a")
    push("mine.a", REPOSITORY, private=True, revision="candidate")
    repository = hub.repositories[REPOSITORY]
    assert repository.private
    assert "model.onnx" in repository.files("candidate")
    assert "model.onnx" not in repository.files("main")
    assert pull(f"{REPOSITORY}@candidate", force=True).card.name == "mine.a"


def test_push_as_a_pull_request(hub, empty_home):
    add_model(empty_home, "mine.a")
    hub.add(REPOSITORY, {"keep.txt": b"mine"})
    pushed = push("mine.a", REPOSITORY, create_pr=True)
    assert pushed.url == f"{hub.url}/{REPOSITORY}/discussions/1"
    repository = hub.repositories[REPOSITORY]
    assert set(repository.files()) == {"keep.txt"}
    assert "model.onnx" in repository.files("refs/pr/1")


def test_push_of_the_same_files_makes_no_commit(hub, empty_home):
    add_model(empty_home, "mine.a")
    first = push("mine.a", REPOSITORY)
    assert push("mine.a", REPOSITORY).commit == first.commit


def test_model_card_names_the_command_that_brings_the_model(hub, empty_home):
    """A model that is part of pocketzoo needs no pull, which would be refused."""
    push("mnist4k", REPOSITORY)
    text = hub.repositories[REPOSITORY].files()["README.md"].decode()
    assert ("zoo predict image.png --model mnist4k.plus" in text, "zoo pull" in text) == (True, False)


def test_push_removes_weights_that_do_not_match(hub, empty_home, model_files):
    """A model whose weights are not installed replaces one with weights: the old ones must not stay."""
    hub.add(REPOSITORY, model_files | {"keep.txt": b"mine", "model.safetensors": b"of an older model"})
    folder = add_model(empty_home, "mine.a")
    (folder / "model.safetensors").unlink()
    push("mine.a", REPOSITORY)
    assert set(hub.repositories[REPOSITORY].files()) == {"card.json", "model.onnx", "README.md", "keep.txt"}
    (folder / "card.json").unlink()
    assert [file.name for file in pull(REPOSITORY, force=True).source.files] == ["card.json", "model.onnx"]


def test_only_the_files_of_a_model_are_downloaded(hub, empty_home, model_files, tmp_path):
    """Pickles, code and paths that leave the folder stay on the hub, and nothing reads them."""
    strange = {
        "pytorch_model.bin": pickle.dumps({}), "model.pkl": pickle.dumps({}), "modeling.py": b"raise SystemExit",
        "../../escape.txt": b"x", "/etc/escape.txt": b"x", "source.json": b"{}", "README.md": b"# hello",
    }  # fmt: skip
    hub.add(REPOSITORY, model_files | strange)
    pull(REPOSITORY)
    assert installed(empty_home) == sorted(["mine.a", *(f"mine.a/{name}" for name in (*FILES, "source.json"))])
    downloads = {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request}
    assert downloads == set(FILES)
    assert not list(tmp_path.rglob("escape*"))


def hostile_card(files, **changes):
    return files | {"card.json": json.dumps(json.loads(files["card.json"]) | changes).encode()}


def another_file(files, name):
    card = json.loads(files["card.json"])
    card["files"].append({"name": name, "size_bytes": 3, "sha256": "0" * 64})
    return files | {name: b"abc"} | {"card.json": json.dumps(card).encode()}


HOSTILE = {  # name → what changes the files, and a word of the error
    "no card": (lambda files: {"README.md": b"# a BERT"}, ModelNotFound, "no card.json"),
    "no network": (
        lambda files: {name: content for name, content in files.items() if name != "model.onnx"},
        ModelNotFound,
        "no model.onnx",
    ),
    "name leaves the folder": (lambda files: hostile_card(files, name="../../evil"), BadModel, "damaged"),
    "name is hidden": (lambda files: hostile_card(files, name=".evil"), BadModel, "damaged"),
    "shipped model": (lambda files: with_card(files, name=DEFAULT), BadModel, "cannot be replaced"),
    "card is not the one inside": (lambda files: hostile_card(files, title="99.9 %"), BadModel, "differs"),
    "pickle in the card": (lambda files: another_file(files, "model.pkl"), BadModel, "lists model.pkl"),
    "card in the card": (lambda files: another_file(files, "card.json"), BadModel, "lists card.json"),
    "card is binary": (lambda files: files | {"card.json": b"\xff\xfe{}"}, BadModel, "UTF-8"),
    "card is too large": (lambda files: files | {"card.json": b" " * (2**20 + 1)}, BadModel, "limit"),
    "card is nested": (lambda files: files | {"card.json": b"[" * 100_000}, BadModel, "damaged"),
    "network is a pickle": (lambda files: files | {"model.onnx": pickle.dumps({})}, BadModel, "its card says"),
    "weights of another size": (lambda files: files | {"model.safetensors": b"x"}, BadModel, "its card says"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_repositories_leave_nothing(hub, empty_home, model_files, case):
    change, kind, word = HOSTILE[case]
    hub.add(REPOSITORY, change(model_files))
    with pytest.raises(kind, match=word):
        pull(REPOSITORY, force=True)
    assert installed(empty_home) == []


def test_network_with_the_right_size_and_digest_but_hostile(hub, empty_home, model_files):
    """A file that its card describes correctly, but that would read other files when it is opened."""
    import hashlib

    import onnx

    model = onnx.load_from_string(model_files["model.onnx"])
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    content = model.SerializeToString()
    card = json.loads(model_files["card.json"])
    for file in card["files"]:
        if file["name"] == "model.onnx":
            file |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    hub.add(REPOSITORY, model_files | {"model.onnx": content, "card.json": json.dumps(card).encode()})
    with pytest.raises(BadModel, match="weights in another file") as caught:
        pull(REPOSITORY)
    assert ".partial" not in str(caught.value)
    assert installed(empty_home) == []


def test_too_large_files_are_not_downloaded(hub, empty_home, model_files):
    hub.add(REPOSITORY, model_files)
    hub.claimed_sizes["model.onnx"] = 2**30 + 1
    with pytest.raises(BadModel, match=r"1,073,741,825 bytes, more than the limit"):
        pull(REPOSITORY)
    assert not [request for request in hub.requests if request.startswith("GET /cdn/")]
    assert installed(empty_home) == []


@pytest.mark.parametrize("name", FILES)
def test_wrong_bytes_are_refused(hub, empty_home, model_files, name):
    """The content differs from what the hub's listing and the card say."""
    hub.add(REPOSITORY, model_files)
    hub.corrupt.add(name)
    with pytest.raises(ZooError, match=r"differs from its card|damaged"):
        pull(REPOSITORY)
    assert installed(empty_home) == []


def test_a_broken_transfer_is_resumed(hub, empty_home, model_files, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.add(REPOSITORY, model_files)
    hub.cut["model.onnx"] = 1
    pull(REPOSITORY)
    assert zoo.load("mine.a").card.name == "mine.a"


def test_a_transfer_that_breaks_again_and_again_leaves_nothing(hub, empty_home, model_files, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.add(REPOSITORY, model_files)
    hub.cut["model.onnx"] = 10_000
    with pytest.raises(HubError):
        pull(REPOSITORY)
    assert installed(empty_home) == []


def test_a_branch_that_moves_during_a_pull_is_not_mixed(hub, empty_home, model_files, monkeypatch):
    from huggingface_hub import HfApi

    repository = hub.add(REPOSITORY, model_files)
    listing = HfApi.get_paths_info

    def then_push(*arguments, **options):
        found = listing(*arguments, **options)
        repository.commit(with_card(model_files, version="2.0.0"))
        return found

    monkeypatch.setattr(HfApi, "get_paths_info", then_push)
    with pytest.raises(HubError, match="try again"):
        pull(REPOSITORY)
    assert installed(empty_home) == []


def test_an_interrupt_leaves_nothing(hub, empty_home, model_files, monkeypatch):
    hub.add(REPOSITORY, model_files)
    pull(REPOSITORY)
    before = {name: (empty_home / "models" / "mine.a" / name).read_bytes() for name in FILES}
    hub.repositories[REPOSITORY].commit(with_card(model_files, version="2.0.0"))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.hub._check_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pull(REPOSITORY)
    assert {name: (empty_home / "models" / "mine.a" / name).read_bytes() for name in FILES} == before
    assert [name for name in installed(empty_home) if name.startswith(".")] == []


@pytest.mark.slow
def test_models_of_other_origin_are_kept_without_force(hub, empty_home, model_files):
    hub.add(REPOSITORY, model_files)
    hub.add("eve/digits", with_card(model_files, title="of somebody else"))
    own = add_model(empty_home, "mine.a", title="my own")
    with pytest.raises(BadModel, match=r"did not come from a hub.*--force"):
        pull(REPOSITORY)
    assert registry.find("mine.a").card.title == "my own"
    pull(REPOSITORY, force=True)
    with pytest.raises(BadModel, match=rf"came from {hub.url}/{REPOSITORY}"):
        pull("eve/digits")
    (own / "model.onnx").write_bytes(b"changed here")
    with pytest.raises(BadModel, match=r"was changed since it was pulled \(model.onnx\)"):
        pull(REPOSITORY)
    pull(REPOSITORY, force=True)
    (own / "source.json").write_text('{"schema_version": 1}')
    with pytest.raises(BadModel, match="is damaged"):
        pull(REPOSITORY)
    assert pull("eve/digits", force=True).source.repository == "eve/digits"
    assert zoo.load("mine.a").card.title == "of somebody else"


@pytest.mark.slow
def test_a_link_in_the_way_is_replaced_not_followed(hub, empty_home, model_files, tmp_path):
    hub.add(REPOSITORY, model_files)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("keep")
    (empty_home / "models" / "mine.a").symlink_to(precious)
    with pytest.raises(BadModel, match="--force"):
        pull(REPOSITORY)
    pull(REPOSITORY, force=True)
    assert (precious / "file").read_text() == "keep"
    assert not (empty_home / "models" / "mine.a").is_symlink()


@pytest.mark.slow
def test_two_pulls_at_once_give_one_whole_model(hub, empty_home, model_files):
    hub.add(REPOSITORY, model_files)
    errors = []

    def work():
        try:
            pull(REPOSITORY)
        except (ZooError, OSError) as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [check for check in verify(registry.find("mine.a")) if check.passed is False]
    assert [name for name in installed(empty_home) if name.startswith(".")] == []


def test_verify_checks_the_lock(hub, empty_home, model_files, run):
    """Somebody who changes the network and its card together is found out by source.json."""
    hub.add(REPOSITORY, model_files)
    pull(REPOSITORY)
    code, out, _ = run("verify", "mine.a")
    assert (code, "source" in out, f"pulled from {REPOSITORY}@" in out) == (0, True, True)
    folder = empty_home / "models" / "mine.a"
    for name, content in with_card(model_files, title="changed").items():
        (folder / name).write_bytes(content)
    code, out, _ = run("verify", "mine.a")
    assert code == 1
    assert "card.json, model.onnx differs from what was pulled" in out
    pull(REPOSITORY, force=True)
    (folder / "source.json").write_text("{}")
    code, out, _ = run("verify", "mine.a")
    assert (code, "source.json is damaged" in out) == (1, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 2), ("commit", "main"), ("repository", "../x"), ("repository", "a/b/c"), ("extra", 1),
        ("endpoint", "file:///etc"), ("endpoint", "https://user:key@example.org"), ("revision", "--force"),
        ("files", [{"name": "../x", "size_bytes": 1, "sha256": "0" * 64}]),
    ],
)  # fmt: skip
def test_damaged_locks_are_refused(hub, empty_home, model_files, field, value):
    hub.add(REPOSITORY, model_files)
    pull(REPOSITORY)
    path = empty_home / "models" / "mine.a" / "source.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(BadModel, match="--force"):
        registry.find("mine.a").source()
    assert registry.find("mine.a").card.name == "mine.a"  # the model itself is whole


def test_list_and_info_show_the_source(hub, empty_home, model_files, run):
    hub.add(REPOSITORY, model_files)
    commit = pull(REPOSITORY).source.commit
    assert f"pulled from {REPOSITORY}@{commit[:12]}" in run("list", "mine")[1]
    assert "pulled" not in run("list", "mnist4k")[1]
    out = run("info", "mine.a")[1]
    assert f"pulled from {hub.url}/{REPOSITORY} at {commit}" in " ".join(out.split())
    assert "pulled" not in run("info", "mnist4k")[1]
    (empty_home / "models" / "mine.a" / "source.json").write_text("{}")
    for arguments in (("list", "mine"), ("info", "mine.a")):
        code, out, err = run(*arguments)
        assert (code, "source.json is damaged" in err) == (0, True)


@pytest.mark.parametrize(
    "reference",
    [
        "digits", "a/b/c", "https://huggingface.co/me/digits", "me/digits@", "me/di gits", "../digits", "me/..",
        "me/x--y", "me/digits@../../main", "me/digits@-x", "",
    ],
)  # fmt: skip
def test_wrong_references(hub, empty_home, reference):
    with pytest.raises((WrongUsage, ModelNotFound)):
        pull(reference)
    assert not [request for request in hub.requests if ".." in request]


@pytest.mark.parametrize(
    ("token", "options", "reference", "kind", "word"),
    [
        (TOKEN, {}, "me/nothing", ModelNotFound, "no repository me/nothing"),
        ("", {"private": True}, REPOSITORY, ModelNotFound, "or it is private"),
        (TOKEN, {}, f"{REPOSITORY}@v9", ModelNotFound, "no revision 'v9'"),
        ("", {"gated": True}, REPOSITORY, HubError, "is gated: accept its terms"),
        ("hf_wrong", {}, REPOSITORY, HubError, "does not accept the token"),
    ],
)
def test_refusals_of_a_pull(hub, empty_home, model_files, monkeypatch, token, options, reference, kind, word):
    monkeypatch.setenv("HF_TOKEN", token)
    hub.add(REPOSITORY, model_files, **options)
    with pytest.raises(kind, match=word) as caught:
        pull(reference)
    assert token not in str(caught.value) or not token
    assert installed(empty_home) == []


@pytest.mark.parametrize(
    ("token", "word"),
    [("hf_wrong", "does not accept the token"), ("", "does not accept the token"), (READ_TOKEN, "does not permit")],
)
def test_refusals_of_a_push(hub, empty_home, monkeypatch, token, word):
    add_model(empty_home, "mine.a")
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=word):
        push("mine.a", REPOSITORY)
    assert hub.repositories == {}


def test_a_hub_that_is_down(hub, empty_home, model_files, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between huggingface_hub's tries
    hub.add(REPOSITORY, model_files)
    hub.down = True
    with pytest.raises(HubError, match="answered 503"):
        pull(REPOSITORY)


@pytest.mark.slow
def test_what_cannot_be_pushed(hub, empty_home, tmp_path):
    folder = add_model(empty_home, "mine.a")
    with pytest.raises(WrongUsage, match="ONNX file on its own"):
        push(str(folder / "model.onnx"), REPOSITORY)
    with pytest.raises(WrongUsage, match="--revision BRANCH"):
        push("mine.a", f"{REPOSITORY}@main")
    (folder / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(BadModel, match=r"model\.safetensors of mine\.a differs"):
        push("mine.a", REPOSITORY)
    (folder / "model.onnx").write_bytes(b"changed")
    with pytest.raises(BadModel, match="sha256 differs"):
        push("mine.a", REPOSITORY)
    assert hub.requests == []


@pytest.mark.slow
def test_commands_in_a_process_of_their_own(server, tmp_path):
    """With the environment as huggingface_hub reads it: HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE."""
    add_model(tmp_path / "home", "mine.b", default=False)
    environment = {
        "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "ZOO_HOME": str(tmp_path / "home"),
    }  # fmt: skip
    done = command("push", "mine.b", "me/process", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    commit = json.loads(done.stdout)["commit"]
    done = command("pull", "me/process", env=environment | {"ZOO_HOME": str(tmp_path / "other")})
    assert (done.returncode, commit[:12] in done.stdout) == (0, True), done.stderr
    offline = environment | {"ZOO_HOME": str(tmp_path / "third"), "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": server.url}
    done = command("pull", "me/process", env=offline)
    assert (done.returncode, commit[:12] in done.stdout) == (0, True), done.stderr
    done = command("pull", "me/unknown", env=offline)
    assert (done.returncode, "not in the cache" in done.stderr) == (1, True), done.stderr
    done = command("push", "mine.b", "me/process", env=environment | {"HF_HUB_OFFLINE": "1"})
    assert (done.returncode, "HF_HUB_OFFLINE" in done.stderr) == (1, True), done.stderr


def test_missing_extra_is_named(tmp_path):
    code = "import sys; sys.modules['huggingface_hub'] = None; from serve.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "pull", REPOSITORY], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "pocketzoo[hub]" in done.stderr) == (1, True)
