"""`zoo list`, `info`, `verify`, `doctor`, `completion`: model names and paths, JSON, shell completion, exit codes."""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import click
import pytest

from serve.cli import main, options
from tests.support.paths import REPOSITORY, add_model
from zoo import errors, registry
from zoo.card import Card
from zoo.errors import BadInput, BadModel, DeviceUnavailable, ModelNotFound, WrongUsage, ZooError, printable

CODES = {  # exit code, HTTP status
    ZooError: (1, 500),
    BadInput: (1, 400),
    WrongUsage: (2, 400),
    ModelNotFound: (3, 404),
    BadModel: (3, 500),
    DeviceUnavailable: (3, 500),
    errors.SeveralDigits: (1, 400),
    errors.RunError: (1, 500),
    errors.ExportError: (1, 500),
    errors.BadData: (1, 500),
    errors.DataNotFound: (1, 500),
}


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_subclass_inherits_exit_code_and_http_status(run, monkeypatch, kind):
    class CustomError(kind):
        """A subclass that no table lists."""

    def raise_error(name):
        raise CustomError("a message in \x1b[31mred")

    monkeypatch.setattr("zoo.loading.card_of", raise_error)
    assert (CustomError.exit_code, CustomError.http_status) == CODES[kind]
    assert run("info", "x") == (CODES[kind][0], "", "zoo: a message in \\x1b[31mred\n")


def test_all_library_errors_are_tested_for_codes():
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
def test_printable_escapes_control_characters(text, expected):
    assert printable(text) == expected


def test_memory_error_has_a_message(run, monkeypatch):
    def raise_error(name):
        raise MemoryError

    monkeypatch.setattr("zoo.loading.card_of", raise_error)
    code, out, err = run("info", "x")
    assert (code, out) == (1, "")
    assert err.startswith("zoo: Out of memory")


def test_list_json_contains_complete_cards(run):
    code, out, err = run("list", "mnist4k", "--json")
    assert (code, err) == (0, "")
    (card,) = json.loads(out)
    assert Card.from_json(json.dumps(card), "here") == registry.find("mnist4k").card


def test_list_pattern_matches_name_prefixes(run):
    code, out, _ = run("list", "cifar")
    names = [line.split()[0] for line in out.splitlines()[1:]]
    assert code == 0
    assert names == sorted(entry.card.name for entry in registry.scan() if entry.card.name.startswith("cifar"))
    assert len(names) > 2
    assert run("list", "ifar")[0] == 3


def test_info_json_is_the_complete_card(run):
    code, out, _ = run("info", "mnist14k", "--json")
    assert code == 0
    assert Card.from_json(out, "here") == registry.find("mnist14k").card


@pytest.mark.parametrize("kind", ["folder", "file", "folder with a link to it"])
def test_info_verify_and_inspect_accept_paths(run, tmp_path, kind, monkeypatch, empty_home):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    folder = tmp_path / "my model"
    shutil.copytree(registry.SHIPPED_FOLDER / "mnist4k.plus", folder)
    path = folder / "model.onnx" if kind == "file" else folder
    if kind == "folder with a link to it":
        path = tmp_path / "link"
        path.symlink_to(folder)
    code, out, err = run("info", path)
    assert (code, err) == (0, "")
    assert f"mnist4k.plus {registry.find('mnist4k.plus').card.version}" in out
    assert f"{(folder / 'model.onnx').stat().st_size:,} bytes" in out
    code, out, err = run("verify", path)
    assert (code, err) == (0, "")
    assert "card               ok" in out
    assert "accuracy           skipped" in out
    code, out, err = run("inspect", REPOSITORY / "examples" / "seven.png", "--model", path, "-o", tmp_path / "out")
    assert code == 0
    assert re.match(rf"{re.escape(str(REPOSITORY))}/examples/seven.png: 7, >?9\d\.\d%", err)
    assert str(tmp_path / "out" / "1-answer.png") in out.splitlines()


def test_verify_json_reports_each_check(run, empty_home, monkeypatch):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    (add_model(empty_home, "own.model") / "model.safetensors").write_bytes(b"x")
    code, out, _ = run("verify", "own", "mnist4k", "--json")
    checks = json.loads(out)
    assert code == 1
    assert [(check["model"], check["check"], check["passed"]) for check in checks] == [
        ("own.model", "model.onnx", True),
        ("own.model", "model.safetensors", False),
        ("mnist4k.plus", "model.onnx", True),
        ("mnist4k.plus", "model.safetensors", True),
        ("mnist4k.plus", "card", True),
        ("mnist4k.plus", "accuracy", None),
    ]
    assert "differs from the card" in checks[1]["detail"]


def test_verify_reports_damaged_models(run, empty_home):
    (add_model(empty_home, "own.bad") / "card.json").write_text("{")
    for pattern in ("own*", "own.bad", str(empty_home / "models" / "own.bad")):
        code, out, err = run("verify", pattern)
        assert (code, err) == (1, "")
        assert "FAILED   The card in" in out


def test_list_reports_damaged_models_and_continues(run, empty_home):
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
    assert (code, len(err.splitlines())) == (0, 1)  # damaged models that do not match are not reported


def test_doctor_json_reports_damaged_model(run, empty_home):
    (add_model(empty_home, "own.bad") / "card.json").write_text("{")
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert code == 3
    assert report["well"] is False
    findings = {row["subject"]: row["finding"] for row in report["findings"]}
    assert "own.bad" in findings["damaged model"]
    assert findings["CPUExecutionProvider"] == "opens a session"


def test_doctor_runs_only_shipped_models(run, empty_home, monkeypatch):
    """The runtime is tested with the smallest shipped model, even if a user's model is smaller."""
    folder = add_model(empty_home, "own.small")
    content = (registry.SHIPPED_FOLDER / "mnist4k.plus" / "model.onnx").read_bytes()[:-1]
    card = json.loads((folder / "card.json").read_text())
    file = next(file for file in card["files"] if file["name"] == "model.onnx")
    file |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "model.onnx").write_bytes(content)
    (folder / "card.json").write_text(json.dumps(card))
    models_run = []
    monkeypatch.setattr("zoo.runtime.describe_runtime", lambda model: models_run.append(model) or [])
    assert run("doctor")[0] == 0
    assert models_run == [(registry.SHIPPED_FOLDER / "mnist4k.plus" / "model.onnx").read_bytes()]


def test_help_lines_are_not_truncated(run):
    """The list of commands has one complete line per command on a terminal of 80 columns."""
    code, out, _ = run("-h")
    commands = out.split("Commands:\n")[1]
    assert code == 0
    assert len(commands.splitlines()) == len(main.COMMANDS)
    assert "..." not in commands
    assert all(line.endswith(".") for line in commands.splitlines())


@pytest.mark.parametrize("command", sorted(main.COMMANDS))
def test_all_options_have_a_help_text(command):
    parameters = main.cli.get_command(None, command).params
    assert [it.name for it in parameters if isinstance(it, click.Option) and not it.help] == []


@pytest.fixture
def completions(run, monkeypatch):
    """A function that returns the completions bash would offer for the last word of a line, as (type, value)."""

    def complete(line):
        monkeypatch.setenv("_ZOO_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        code, out, err = run()
        assert (code, err) == (0, "")
        return [tuple(item.split(",", 1)) for item in out.splitlines()]

    return complete


def test_completion_of_commands_and_options(completions):
    assert {value for _, value in completions("zoo ")} == set(main.COMMANDS)
    assert completions("zoo pre") == [("plain", "predict")]
    assert ("plain", "--json") in completions("zoo list --")
    assert completions("zoo predict x.png --device cu") == [("plain", "cuda")]


@pytest.mark.parametrize(
    "line",
    ["zoo info mnist4", "zoo verify x mnist4", "zoo list mnist4", "zoo inspect -m mnist4", "zoo predict x -m mnist4"],
)
def test_completion_of_model_names(completions, line):
    assert completions(line) == [("plain", "mnist4k"), ("plain", "mnist4k.plus")]


def test_completion_of_files(completions):
    for line in ("zoo predict ./x", "zoo inspect ./x", "zoo info ./x", "zoo predict x.png -m ./x"):
        assert completions(line) == [("file", "./x")]


def test_completion_without_home_directory(monkeypatch, run, capsys):
    monkeypatch.setattr("zoo.registry.home", lambda: (_ for _ in ()).throw(ZooError("There is no home folder.")))
    items = options.complete_models(None, None, "mnist4")
    assert [(item.value, item.type) for item in items] == [("mnist4", "file")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_printed(run, shell):
    code, out, err = run("completion", shell)
    assert (code, err) == (0, "")
    assert f"_ZOO_COMPLETE={shell}_complete" in out


def test_completion_script_works_in_bash(tmp_path):
    """Sources the script in a real bash and calls its function as the Tab key does."""
    (tmp_path / "zoo").write_text(f'#!/bin/sh\nexec {sys.executable} -m serve.cli "$@"\n')
    (tmp_path / "zoo").chmod(0o755)
    script = """
    eval "$(zoo completion bash)"
    COMP_WORDS=(zoo info mnist4k.p) COMP_CWORD=2
    _zoo_completion zoo mnist4k.p info
    echo "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == "mnist4k.plus", done.stderr


def test_unknown_completion_shell_exits_with_1(monkeypatch, run):
    monkeypatch.setenv("_ZOO_COMPLETE", "nushell_complete")
    assert run("list")[0] == 1
