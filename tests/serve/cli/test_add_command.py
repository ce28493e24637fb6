"""`zoo add` and `zoo remove`: options, messages, exit codes."""

import os

import pytest

import zoo
from tests.support.onnx_models import classifier, save
from zoo.adding.samples import made_pictures


@pytest.fixture
def files(tmp_path, empty_home):
    from PIL import Image

    save(classifier(), tmp_path / "m.onnx")
    (tmp_path / "labels.txt").write_text("cat\ndog\ncow\n")
    Image.fromarray(made_pictures(1)[0]).save(tmp_path / "picture.png")
    return tmp_path


def test_add_use_and_remove(run, files, empty_home):
    options = ["--labels", files / "labels.txt", "--mean", "0.4,0.5,0.6", "--std", "0.2,0.2,0.2", "--resize-size", 10]
    code, out, err = run("add", files / "m.onnx", "--name", "own.m", *options, "--crop", "center", "--licence", "MIT")
    assert (code, out) == (0, "own.m\n")
    assert "own.m: 3 classes, " in err
    assert "input: uint8 (N, 8, 8, 3), photo, shorter side to 10, centre cropped, bilinear\n" in err
    assert "preprocessing: pixels / 255, minus (0.4, 0.5, 0.6), divided by (0.2, 0.2, 0.2); options\n" in err
    assert "differ by at most " in err
    assert "Next: zoo predict IMAGE --model own.m\n" in err
    code, out, err = run("predict", files / "picture.png", "--model", "own.m", "--format", "jsonl")
    assert code == 0
    assert "cropped to the central 8x8" in out
    code, out, err = run("list", "own")
    assert (code, out.split()[8:10]) == (0, ["own.m", "unknown"])
    code, out, err = run("info", "own.m")
    assert code == 0
    for text in ("accuracy      unknown", "licence MIT", "training      unknown: added from m.onnx", "by test"):
        assert text in out
    code, out, err = run("verify", "own.m")
    assert code == 0
    assert "accuracy           skipped" in out
    code, out, err = run("inspect", files / "picture.png", "--model", "own.m", "-o", files / "inside")
    assert (code, err.count("\n")) == (0, 1)  # the answer
    assert err.startswith(f"{files / 'picture.png'}: ")
    code, out, err = run("remove", "own.m")
    assert (code, out) == (2, "")
    assert "add --yes" in err
    assert run("remove", "own.m", "--yes") == (0, "", f"zoo: Deleted {empty_home / 'models' / 'own.m'}.\n")
    assert os.listdir(empty_home / "models") == []


def test_remove_only_ones_own_models(run, empty_home, tmp_path):
    for name in ("mnist14k.plus", "mnist14k"):
        code, _, err = run("remove", name, "-y")
        assert code == 2
        assert "is shipped with pocketzoo and cannot be removed" in err
    for name in ("nothing", "..", "../models", ""):
        code, _, err = run("remove", name, "-y")
        assert code == 3
        assert "There is no model" in err
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (empty_home / "models" / "link").symlink_to(tmp_path / "precious")
    assert run("remove", "link", "-y")[0] == 0
    assert (tmp_path / "precious" / "file").exists()
    (empty_home / "models" / "damaged").mkdir()
    (empty_home / "models" / "damaged" / "card.json").write_text("{")
    assert run("remove", "damaged", "-y")[0] == 0
    assert os.listdir(empty_home / "models") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mean", "a,b"], "'a,b' is not a number"),
        (["--size", "8x8x8"], "'8x8x8' is not a number of pixels"),
        (["--size", "-1"], "'-1' is not a number of pixels"),
        (["--layout", "x"], "is not one of"),
        (["--labels", "/nowhere"], "There is no file /nowhere with labels"),
    ],
)
def test_wrong_options_are_one_error(run, files, empty_home, options, message):
    code, out, err = run("add", files / "m.onnx", "--name", "own.m", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert os.listdir(empty_home / "models") == []


def test_page_says_what_is_unknown(files):
    from serve.demo import text

    card = zoo.add(files / "m.onnx", "own.m", ["cat", "dog", "cow"])
    page = text.card(card, 1000)
    for fact in ("trained on", "test accuracy"):
        assert f"| {fact} | unknown |" in page
    assert f"| parameters | {card.parameters.deployed} |" in page


def test_python_function_is_public():
    assert "add" in zoo.__all__
    assert zoo.add.__module__ == "zoo.adding.add"
