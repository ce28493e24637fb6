"""Distillation: the loss matches the paper, and a run with a teacher can be resumed and checked like any other."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.support.examples import RECIPE, quiet, stripes
from train import distill
from train.data import Split
from train.loop import TrainingJob, fit
from train.runs import Run
from zoo.errors import RunError

pytestmark = pytest.mark.slow

TEACHER = replace(RECIPE, augment=(), keras_defaults=False)
STUDENT = replace(TEACHER, distill={"teacher": "the.teacher", "share": 1.0, "temperature": 2.0})


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """A finished run of six epochs that classifies stripes."""
    recipe = replace(TEACHER, name="the.teacher", epochs=6)
    monkeypatch.setattr(distill, "find", {recipe.name: recipe}.__getitem__)
    run = Run.of(recipe.name, "calibration", 0, tmp_path)
    result = fit(TrainingJob(recipe, "calibration", 0, 6, 1), run, stripes(640, 1), stripes(200, 2), quiet())
    assert result["accuracy"] > 0.9
    return run


def train_student(root, name="the.student", recipe=STUDENT, epochs=6, **options):
    """Train with labels that are all wrong by one."""
    correct = stripes(640, 3)
    wrong = Split(correct.name, correct.images, (correct.labels + 1) % 10)
    run = Run.of(name, "calibration", 0, root)
    return run, fit(TrainingJob(recipe, "calibration", 5, epochs, 1), run, wrong, stripes(200, 2), quiet(), **options)


def test_loss_matches_hinton_et_al(tmp_path, teacher):
    objective = distill.Teacher(replace(STUDENT, distill=STUDENT.distill | {"share": 0.75}), "calibration", tmp_path)
    part, scores = stripes(40, 4), torch.randn(40, 10, requires_grad=True)
    loss = objective(scores, part.labels, part.images)
    ours, theirs = (scores / 2).log_softmax(1), (objective.logits(part.images) / 2).softmax(1)
    expected = 0.25 * F.cross_entropy(scores, part.labels) - 0.75 * 4 * (theirs * ours).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert scores.grad.abs().sum() > 0
    assert not any(weight.grad is not None for weight in objective.network.parameters())


def test_student_follows_the_teacher_unless_share_is_zero(tmp_path, teacher):
    assert train_student(tmp_path)[1]["accuracy"] > 0.9
    labels_only = replace(STUDENT, distill=STUDENT.distill | {"share": 0.0})
    assert train_student(tmp_path, "labels.only", labels_only)[1]["accuracy"] < 0.1


def test_config_records_the_teacher(tmp_path, teacher):
    run, _ = train_student(tmp_path, epochs=2)
    assert run.read("config")["distill"] == STUDENT.distill
    assert "distill" not in RECIPE.settings()  # so that older cards and runs still agree
    teacher.weights.write_bytes(run.weights.read_bytes())
    with pytest.raises(RunError, match=r"teacher_sha256 was"):
        train_student(tmp_path, epochs=2, resume=True)


def test_teacher_with_other_settings_is_refused(tmp_path, teacher, monkeypatch):
    longer = replace(distill.find("the.teacher"), epochs=7)
    monkeypatch.setattr(distill, "find", lambda name: longer)
    with pytest.raises(RunError, match="epochs was 6, now 7"):
        train_student(tmp_path)


def test_refused_restart_keeps_the_old_run(tmp_path, teacher):
    run, _ = train_student(tmp_path, epochs=2)
    (teacher.folder / "result.json").unlink()
    with pytest.raises(RunError, match="teacher is not trained"):
        train_student(tmp_path, epochs=2, restart=True)
    assert run.checkpoint.exists()
    assert run.weights.exists()


def test_missing_teacher_names_the_command(tmp_path):
    missing = replace(STUDENT, distill=STUDENT.distill | {"teacher": "mnist105k.teacher"})
    with pytest.raises(RunError, match=r"python -m train mnist105k\.teacher --calibration-run$"):
        train_student(tmp_path, recipe=missing)
