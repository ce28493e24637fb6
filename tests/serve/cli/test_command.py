"""`zoo list`, `info`, `verify`, `doctor`, `completion`: names and paths, JSON, completion in shells, exit codes."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from serve.cli import main as cli
from serve.cli.main import main
from tests.support.paths import REPOSITORY, add_model
from zoo import errors, registry
from zoo.card import Card
from zoo.errors import BadInput, BadModel, DeviceUnavailable, ModelNotFound, WrongUsage, ZooError, printable


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command in this process; returns exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["zoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call


CODES = {ZooError: (1, 500), BadInput: (1, 400), WrongUsage: (2, 400), ModelNotFound: (3, 404), BadModel: (3, 500),
         DeviceUnavailable: (3, 500), errors.BadData: (1, 500), errors.DataNotFound: (1, 500)}  # fmt: skip


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_exit_codes_and_statuses_are_inherited(run, monkeypatch, kind):
    class Own(kind):
        """An error that no table knows."""

    def find(name):
        raise Own("a sentence with \x1b[31mcolour")

    monkeypatch.setattr("zoo.model.card_of", find)
    assert (Own.exit_code, Own.http_status) == CODES[kind]
    assert run("info", "x") == (CODES[kind][0], "", "zoo: a sentence with \\x1b[31mcolour\n")


def test_every_error_of_the_library_has_its_codes_in_the_table():
    tree = ast.parse((REPOSITORY / "zoo" / "errors.py").read_text())
    assert {node.name for node in tree.body if isinstance(node, ast.ClassDef)} == {kind.__name__ for kind in CODES}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, ä → ×", "plain text, ä → ×"),
        ("a\x1b[2Jb\nc\x9b", "a\\x1b[2Jb\\nc\\x9b"),
        ("\u202egnp\ufeff", "\\u202egnp\\ufeff"),
        ("\udcff", "\\udcff"),
    ],
)
def test_printable_spells_out_what_a_terminal_could_act_on(text, expected):
    assert printable(text) == expected


def test_too_little_memory_is_a_sentence(run, monkeypatch):
    def find(name):
        raise MemoryError

    monkeypatch.setattr("zoo.model.card_of", find)
    code, out, err = run("info", "x")
    assert (code, out) == (1, "")
    assert err.startswith("zoo: Out of memory")


def test_list_json_is_the_cards(run):
    code, out, err = run("list", "mnist4k", "--json")
    assert (code, err) == (0, "")
    (card,) = json.loads(out)
    assert Card.from_json(json.dumps(card), "here") == registry.find("mnist4k").card


def test_a_word_lists_what_begins_with_it(run):
    code, out, _ = run("list", "cifar")
    names = [line.split()[0] for line in out.splitlines()[1:]]
    assert code == 0
    assert names == sorted(entry.card.name for entry in registry.scan() if entry.card.name.startswith("cifar"))
    assert len(names) > 2
    assert run("list", "ifar")[0] == 3


def test_info_json_is_the_card(run):
    code, out, _ = run("info", "mnist14k", "--json")
    assert code == 0
    assert Card.from_json(out, "here") == registry.find("mnist14k").card


@pytest.mark.parametrize("kind", ["folder", "file", "folder with a link to it"])
def test_info_verify_and_inspect_take_paths(run, tmp_path, kind, monkeypatch, empty_home):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    folder = tmp_path / "my model"
    shutil.copytree(registry.SHIPPED / "mnist4k.plus", folder)
    path = folder / "model.onnx" if kind == "file" else folder
    if kind == "folder with a link to it":
        path = tmp_path / "link"
        path.symlink_to(folder)
    code, out, err = run("info", path)
    assert (code, err) == (0, "")
    assert "mnist4k.plus 1.0.0" in out
    assert "24,607 bytes" in out
    code, out, err = run("verify", path)
    assert (code, err) == (0, "")
    assert "card               ok" in out
    assert "accuracy           skipped" in out
    code, out, err = run("inspect", REPOSITORY / "examples" / "seven.png", "--model", path, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert str(tmp_path / "out" / "1-answer.png") in out.splitlines()


def test_verify_json(run, empty_home, monkeypatch):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    (add_model(empty_home, "own.model") / "model.safetensors").write_bytes(b"x")
    code, out, _ = run("verify", "own", "mnist4k", "--json")
    found = json.loads(out)
    assert code == 1
    assert [(check["model"], check["check"], check["passed"]) for check in found] == [
        ("own.model", "model.onnx", True),
        ("own.model", "model.safetensors", False),
        ("mnist4k.plus", "model.onnx", True),
        ("mnist4k.plus", "model.safetensors", True),
        ("mnist4k.plus", "card", True),
        ("mnist4k.plus", "accuracy", None),
    ]
    assert "another sha256" in found[1]["detail"]


def test_verify_names_damaged_models_that_a_pattern_means(run, empty_home):
    (add_model(empty_home, "own.bad") / "card.json").write_text("{")
    for pattern in ("own*", "own.bad", str(empty_home / "models" / "own.bad")):
        code, out, err = run("verify", pattern)
        assert (code, err) == (1, "")
        assert "FAILED   The card in" in out


def test_list_names_damaged_models_and_goes_on(run, empty_home):
    (add_model(empty_home, "own.bad") / "card.json").write_text("{")
    folder = add_model(empty_home, "own.\x1b[31m")
    (folder / "card.json").write_text((folder / "card.json").read_text().replace("MNIST", "M\x1b[31m"))
    code, out, err = run("list")
    assert code == 0
    assert "mnist14k.plus *" in out
    lines = err.splitlines()
    assert sum(line.startswith("zoo: ") for line in lines) == 2
    assert any("own.bad" in line for line in lines)
    assert (out + err).replace("\n", "").isprintable()
    code, out, err = run("list", "mnist14k")
    assert (code, len(err.splitlines())) == (0, 1)  # what does not match is not named


def test_doctor_json(run, empty_home):
    (add_model(empty_home, "own.bad") / "card.json").write_text("{")
    code, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert code == 3
    assert found["well"] is False
    findings = {row["subject"]: row["finding"] for row in found["findings"]}
    assert "own.bad" in findings["damaged model"]
    assert findings["CPUExecutionProvider"] == "opens a session"


def test_doctor_opens_no_foreign_model(run, empty_home, monkeypatch):
    """The runtime is tried with a shipped model, though an own one is smaller."""
    folder = add_model(empty_home, "own.small")
    content = (registry.SHIPPED / "mnist4k.plus" / "model.onnx").read_bytes()[:-1]
    card = json.loads((folder / "card.json").read_text())
    file = next(file for file in card["files"] if file["name"] == "model.onnx")
    file |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "model.onnx").write_bytes(content)
    (folder / "card.json").write_text(json.dumps(card))
    opened = []
    monkeypatch.setattr("zoo.runtime.describe_runtime", lambda model: opened.append(model) or [])
    assert run("doctor")[0] == 0
    assert opened == [(registry.SHIPPED / "mnist4k.plus" / "model.onnx").read_bytes()]


def test_help_is_not_cut(run):
    """One line a command, whole, on a terminal of 80 columns."""
    code, out, _ = run("-h")
    commands = out.split("Commands:\n")[1]
    assert code == 0
    assert len(commands.splitlines()) == len(cli.cli.commands)
    assert "..." not in commands
    assert all(line.endswith(".") for line in commands.splitlines())


def completed(line):
    """What bash would offer for the last word of a line, as (type, value)."""
    words = line.split(" ")
    variables = {"_ZOO_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "serve.cli"],
        capture_output=True, text=True, timeout=60, env=os.environ | variables,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return [tuple(item.split(",", 1)) for item in done.stdout.splitlines()]


def test_commands_and_options_are_completed():
    assert {value for _, value in completed("zoo ")} == set(cli.cli.commands)
    assert completed("zoo pre") == [("plain", "predict")]
    assert ("plain", "--json") in completed("zoo list --")
    assert completed("zoo predict x.png --device cu") == [("plain", "cuda")]


@pytest.mark.parametrize("line", ["zoo info mnist4", "zoo verify x mnist4", "zoo list mnist4", "zoo inspect -m mnist4",
                                  "zoo predict x.png --model mnist4"])  # fmt: skip
def test_model_names_are_completed(line):
    assert completed(line) == [("plain", "mnist4k"), ("plain", "mnist4k.plus")]


def test_files_are_completed_where_a_file_may_stand():
    for line in ("zoo predict ./x", "zoo inspect ./x", "zoo info ./x", "zoo predict x.png -m ./x"):
        assert completed(line) == [("file", "./x")]


def test_completion_without_a_home_folder(monkeypatch, run, capsys):
    monkeypatch.setattr("zoo.registry.home", lambda: (_ for _ in ()).throw(ZooError("There is no home folder.")))
    items = cli._complete_models(None, None, "mnist4")
    assert [(item.value, item.type) for item in items] == [("mnist4", "file")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed(run, shell):
    code, out, err = run("completion", shell)
    assert (code, err) == (0, "")
    assert f"_ZOO_COMPLETE={shell}_complete" in out


def test_bash_completes_with_the_script(tmp_path):
    """A real bash, which sources the script and calls its function as the Tab key does."""
    (tmp_path / "zoo").write_text(f'#!/bin/sh\nexec {sys.executable} -m serve.cli "$@"\n')
    (tmp_path / "zoo").chmod(0o755)
    script = """
    eval "$(zoo completion bash)"
    COMP_WORDS=(zoo info mnist4k.p) COMP_CWORD=2
    _zoo_completion zoo mnist4k.p info
    echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout.strip() == "mnist4k.plus", done.stderr


def test_an_unknown_completion_instruction_ends(monkeypatch, run):
    monkeypatch.setenv("_ZOO_COMPLETE", "nushell_complete")
    assert run("list")[0] == 1
