"""`zoo.toml` and `[tool.zoo]`: which file and which value counts, and what a file may not set."""

import json

import click
import pytest

from serve.cli import main
from serve.cli.config import ALLOWED, apply, load_config
from tests.support.paths import DEFAULT, REPOSITORY
from zoo.errors import WrongUsage

IMAGE = REPOSITORY / "examples" / "seven.png"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder two levels below one that holds files of settings."""
    (tmp_path / "project" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "sub")
    return tmp_path / "project"


def test_nearest_file_counts_and_zoo_toml_before_pyproject(folder):
    assert load_config().path is None
    (folder / "pyproject.toml").write_text("[tool.zoo]\ndevice = 'cpu'\n")
    assert load_config().path == folder / "pyproject.toml"
    (folder / "zoo.toml").write_text("model = 'mnist4k'\n")
    config = load_config()
    assert config.path == folder / "zoo.toml"
    assert config.values == {"predict": {"model": "mnist4k"}, "inspect": {"model": "mnist4k"}}
    (folder / "sub" / "pyproject.toml").write_text("[tool.other]\nx = 1\n")  # not ours
    assert load_config().path == folder / "zoo.toml"
    (folder / "sub" / "pyproject.toml").write_text("this is not TOML")  # not ours to complain about
    assert load_config().path == folder / "zoo.toml"


def test_command_line_before_environment_before_file(run, folder, monkeypatch):
    (folder / "zoo.toml").write_text(
        "model = 'mnist4k'\n[predict]\ntop-k = 1\nformat = 'jsonl'\n[serve]\nport = 8123\n"
    )
    row = json.loads(run("predict", IMAGE)[1])
    assert (row["model"], len(row["top_k"])) == ("mnist4k.plus", 1)
    row = json.loads(run("predict", IMAGE, "-m", "mnist14k", "--top-k", 2)[1])
    assert (row["model"], len(row["top_k"])) == (DEFAULT, 2)
    ports = []
    monkeypatch.setattr("serve.cli.serve.serve", lambda settings: ports.append(settings.port))
    assert run("serve")[0] == 0
    monkeypatch.setenv("ZOO_PORT", "8124")
    assert run("serve")[0] == 0
    assert run("serve", "--port", 8125)[0] == 0
    assert ports == [8123, 8124, 8125]
    code, out, err = run("--no-config", "predict", IMAGE)
    assert (code, err) == (0, f"{DEFAULT} (the default model) on cpu\n")
    assert not out.startswith("{")


def test_doctor_names_the_file(run, folder):
    from serve.cli import doctor

    (folder / "zoo.toml").write_text("[list]\njson = true\n")
    assert ("settings", f"{folder / 'zoo.toml'} sets list.json") in doctor.examine()[0]
    (card,) = json.loads(run("list", "mnist4k")[1])
    assert card["name"] == "mnist4k.plus"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "is not valid TOML"),
        ("\xff", "is not valid TOML"),
        ("foo = 1", "sets 'foo', which is unknown. It may set: model, device, [predict]"),
        ("[foo]\nx = 1", "sets 'foo', which is unknown"),
        ("predict = 1", "sets 'predict', which is unknown"),
        ("[predict]\nout = 'x.csv'", "sets 'out' of `zoo predict`, which a file may not set"),
        ("[predict]\ntop-k = 'x'", "sets top-k of `zoo predict` to 'x'"),
        ("[predict]\ntop-k = 0", "sets top-k of `zoo predict` to 0"),
        ("[predict]\ntop-k = true", "to True. Use a word or a number."),
        ("[predict]\nfit = 'abc'", "sets fit of `zoo predict` to 'abc'. 'abc' is not one of 'crop', 'whole'."),
        ("[predict]\nfit = ['a']", "sets fit to ['a']: use a word, a number, or true or false"),
        ("model = 'nothing.here'", "may only name a model of the zoo: No model matches 'nothing.here'"),
        ("model = '../evil'", "may only name a model of the zoo"),
        ("model = 'evil'", "may only name a model of the zoo"),
        ("model = 1", "may only name a model of the zoo"),
        ("a = " + "[" * 5000, "is not valid TOML"),
    ],
)
def test_file_that_cannot_be_used_is_one_error_with_its_name(run, folder, text, message):
    (folder / "sub" / "evil").mkdir()
    (folder / "sub" / "evil" / "card.json").write_text("{}")
    (folder / "zoo.toml").write_bytes(text.encode("latin-1"))
    code, out, err = run("predict", IMAGE)
    assert (code, out) == (2, "")
    assert err.startswith(f"zoo: {folder / 'zoo.toml'} ")
    assert message in err
    assert err.count("\n") == 1
    (folder / "zoo.toml").unlink()
    (folder / "pyproject.toml").write_bytes(b"[tool.zoo]\nfoo = 1\n")
    assert f"{folder / 'pyproject.toml'} sets 'foo'" in run("predict", IMAGE)[2]


def test_large_file_is_refused(folder):
    (folder / "zoo.toml").write_text("# " + "x" * 2**20)
    with pytest.raises(WrongUsage, match="more than 1,048,576 bytes"):
        load_config()


# Options that name files, hosts or downloads, or that raise limits. A new option must be put into one of the two lists.
FORBIDDEN = {
    "predict": {"out", "resume", "allow-url", "column", "max-megapixels", "engine"},
    "inspect": {"out", "unit"},
    "verify": {"data"},
    "evaluate": {"map"},
    "fit": {"name", "from", "resume", "replace"},
    "add": {"name", "labels", "samples", "title", "licence", "output-name"},
    "serve": {
        "host", "allowed-host", "cors-origin", "frame-ancestor", "health-port", "max-body-mb", "max-queue",
        "deadline-ms", "access-log",
    },
}  # fmt: skip


@pytest.mark.parametrize("command", ALLOWED)
def test_allowed_options_exist_and_none_is_dangerous(command):
    options = {
        name.removeprefix("--")
        for parameter in main.cli.get_command(None, command).params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
        if name.startswith("--")
    }
    assert set(ALLOWED[command]) <= options
    assert not set(ALLOWED[command]) & FORBIDDEN.get(command, set())


@pytest.mark.parametrize(
    ("command", "text", "expected"),
    [
        ("fit", "arch = 'resnet8'\nsize = 32\nepochs = 5\nminutes = 2.5\nflip = false\nseed = 3",
         {"size": 32, "epochs": 5, "minutes": 2.5, "flip": False, "seed": 3}),
        ("evaluate", "split = 'test'\njson = true", {"split": "test", "as_json": True}),
        ("add", "mean = [0.485, 0.456, 0.406]\nstd = [1, 1, 1]\nsize = '224x192'\nantialias = false",
         {"mean": "0.485,0.456,0.406", "std": "1,1,1", "size": "224x192", "antialias": False}),
    ],
)  # fmt: skip
def test_defaults_of_fit_evaluate_and_add(folder, command, text, expected):
    """Values arrive as the options take them; the shared device too, where the command has it."""
    (folder / "zoo.toml").write_text(f"device = 'cpu'\n[{command}]\n{text}\n")
    context = click.Context(main.cli)
    program = main.cli.get_command(context, command)
    apply(load_config(), context, program)
    defaults = context.default_map[command]
    assert expected.items() <= defaults.items()
    assert ("device" in defaults) == any("--device" in option.opts for option in program.params)
