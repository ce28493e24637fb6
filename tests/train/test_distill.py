"""Learning from a teacher: the loss is the one of the paper, and a run with a teacher is like any other."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.support.examples import RECIPE, quiet, stripes
from train import distill
from train.data import Part
from train.loop import Job, fit
from train.runs import Run, RunError

TAUGHT = replace(RECIPE, augment=(), keras_defaults=False)
STUDENT = replace(TAUGHT, distill={"teacher": "the.teacher", "share": 1.0, "temperature": 2.0})


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """A finished run of six epochs, which knows stripes."""
    recipe = replace(TAUGHT, name="the.teacher", epochs=6)
    monkeypatch.setattr(distill, "find", {recipe.name: recipe}.__getitem__)
    run = Run.of(recipe.name, "twin", 0, tmp_path)
    assert fit(Job(recipe, "twin", 0, 6, 1), run, stripes(640, 1), stripes(200, 2), quiet())["accuracy"] > 0.9
    return run


def learn(root, name="the.student", recipe=STUDENT, epochs=6, **how):
    """From labels that are all wrong by one."""
    told = stripes(640, 3)
    wrong = Part(told.name, told.images, (told.labels + 1) % 10)
    run = Run.of(name, "twin", 0, root)
    return run, fit(Job(recipe, "twin", 5, epochs, 1), run, wrong, stripes(200, 2), quiet(), **how)


def test_the_loss_is_as_hinton_et_al_have_it(tmp_path, teacher):
    taught = distill.Teacher(replace(STUDENT, distill=STUDENT.distill | {"share": 0.75}), "twin", tmp_path)
    part, scores = stripes(40, 4), torch.randn(40, 10, requires_grad=True)
    loss = taught(scores, part.labels, part.images)
    ours, theirs = (scores / 2).log_softmax(1), (taught.logits(part.images) / 2).softmax(1)
    expected = 0.25 * F.cross_entropy(scores, part.labels) - 0.75 * 4 * (theirs * ours).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert scores.grad.abs().sum() > 0
    assert not any(weight.grad is not None for weight in taught.network.parameters())


def test_a_student_believes_its_teacher_as_far_as_the_recipe_says(tmp_path, teacher):
    assert learn(tmp_path)[1]["accuracy"] > 0.9
    doubting = replace(STUDENT, distill=STUDENT.distill | {"share": 0.0})
    assert learn(tmp_path, "the.doubting", doubting)[1]["accuracy"] < 0.1


def test_it_keeps_its_books_of_the_teacher(tmp_path, teacher):
    run, _ = learn(tmp_path, epochs=2)
    assert run.read("config")["distill"] == STUDENT.distill
    assert "distill" not in RECIPE.settings()  # cards and runs from before there was another still agree
    teacher.weights.write_bytes(run.weights.read_bytes())
    with pytest.raises(RunError, match=r"teacher_sha256 was"):
        learn(tmp_path, epochs=2, resume=True)


def test_a_teacher_of_other_settings_is_refused(tmp_path, teacher, monkeypatch):
    longer = replace(distill.find("the.teacher"), epochs=7)
    monkeypatch.setattr(distill, "find", lambda name: longer)
    with pytest.raises(RunError, match="was trained with epochs 6, and in its recipe that is 7 now"):
        learn(tmp_path)


def test_a_restart_that_is_refused_leaves_the_old_run(tmp_path, teacher):
    run, _ = learn(tmp_path, epochs=2)
    (teacher.folder / "result.json").unlink()
    with pytest.raises(RunError, match="Its teacher is not there"):
        learn(tmp_path, epochs=2, restart=True)
    assert run.checkpoint.exists()
    assert run.weights.exists()


def test_without_its_teacher_it_is_told_what_to_do(tmp_path):
    missing = replace(STUDENT, distill=STUDENT.distill | {"teacher": "mnist105k.teacher"})
    with pytest.raises(RunError, match=r"python -m train mnist105k\.teacher --twin\.$"):
        learn(tmp_path, recipe=missing)
