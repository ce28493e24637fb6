"""Studies: quantities, verdicts, the committed results, and a small study from training to page."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from docs.build import accuracy, experiments
from tests.support.examples import RECIPE, stripes
from train.__main__ import main
from train.experiments import analysis, run, study
from train.experiments.study import Check, Claim, Step, Study
from zoo import registry

CARD = registry.find("mnist14k.notes").card
SEEDS = CARD.accuracy.seeds
ALL = [study.find(name) for name in study.NAMES]

pytestmark = pytest.mark.slow


def result(test=0.99, train=0.995, logged=0.98, validations=(0.9, 0.95, 0.94, 0.96)):
    lines = [{"epoch": n, "train_accuracy": logged, "validation_accuracy": v} for n, v in enumerate(validations, 1)]
    return {"test_accuracy": test, "train_accuracy": train, "epochs": lines, "training_s": 60.0}


def make_folder(path):
    path.mkdir()
    return path


def coloured(plot):
    """Count the pixels of a plot that are not grey."""
    pixels = np.asarray(Image.open(plot).convert("RGB")).astype(int)
    return int((pixels.max(2) - pixels.min(2) > 50).sum())


def test_quantities_of_a_result():
    made = result()
    assert analysis.test_accuracy(made) == pytest.approx(99.0)
    assert analysis.logged_gap(made) == pytest.approx(2.0)
    assert analysis.gap(made) == pytest.approx(3.5)
    assert analysis.fluctuation(made) == pytest.approx(1.5)  # 0.95 → 0.94 → 0.96: the second half
    assert analysis.falls(made) == 1
    assert analysis.falls(result(validations=(0.9, 0.9, 0.95))) == 0


@pytest.mark.parametrize(
    ("expected", "differences", "verdict"),
    [
        ("same", (0.01, -0.01, 0.0), "holds"),
        ("same", (0.01, -0.3, 0.3), "undecided"),
        ("same", (0.5, 0.51, 0.52), "does not hold"),
        ("more", (0.5, 0.51, 0.52), "holds"),
        ("more", (-0.5, -0.51, -0.52), "does not hold"),
        ("more", (0.5, -0.5, 0.1), "undecided"),
        ("more", (0.5,), "undecided"),
        ("less", (-0.5, -0.51, -0.52), "holds"),
        ("less", (0.5, 0.51, 0.52), "does not hold"),
        ("no less", (-0.05, -0.051, -0.052), "holds"),
        ("no less", (0.5, 0.51, 0.52), "holds"),
        ("no less", (-0.5, -0.51, -0.52), "does not hold"),
    ],
)
def test_verdict_of_a_comparison(expected, differences, verdict):
    results = {
        "base": {seed: result(test=0.99) for seed in range(4)},
        "other": {seed: result(test=0.99 + points / 100) for seed, points in enumerate(differences)},
    }
    finding = analysis.judge(Check("test_accuracy", "other", expected, "base", 0.1), results)
    assert finding.verdict == verdict
    assert finding.difference.n == len(differences)


def test_differences_are_paired_by_seed():
    """Seeds may differ widely, as long as both variants differ alike."""
    results = {
        "base": {0: result(test=0.90), 1: result(test=0.95), 2: result(test=0.99)},
        "other": {0: result(test=0.902), 1: result(test=0.952), 2: result(test=0.9921), 7: result(test=0.1)},
    }
    finding = analysis.judge(Check("test_accuracy", "other", "more", "base"), results)
    assert finding.verdict == "holds"
    assert finding.difference.n == 3


def test_estimate_has_students_interval():
    estimate = analysis.Estimate.of([1.0, 2.0, 3.0])
    assert estimate.half_width == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert analysis.Estimate.of([1.0]).half_width == float("inf")


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [((99.5, 99.5, 99.51), "holds"), ((99.4, 99.5, 99.35), "undecided"), ((99.1, 99.1, 99.11), "does not hold")],
)
def test_verdict_of_a_figure_to_reach(accuracies, verdict):
    results = {"base": {seed: result(test=value / 100) for seed, value in enumerate(accuracies)}}
    assert analysis.judge(Check("test_accuracy", "base", "at least", 99.4), results).verdict == verdict


def test_verdicts_none_and_combined():
    rising, falling = result(validations=(0.9, 0.95, 0.96)), result()
    check = Check("falls", "base", "none")
    assert analysis.judge(check, {"base": {0: rising}}).verdict == "holds"
    assert analysis.judge(check, {"base": {0: rising, 1: falling}}).verdict == "does not hold"
    assert analysis.judge(check, {}).verdict == "undecided"
    assert analysis.combine(["holds", "holds"]) == "holds"
    assert analysis.combine(["holds", "undecided"]) == "undecided"
    assert analysis.combine(["undecided", "does not hold"]) == "does not hold"


@pytest.mark.parametrize("chosen", ALL, ids=study.NAMES)
def test_study_refers_to_existing_variants_and_quantities(chosen):
    for claim in chosen.claims:
        for check in claim.checks:
            assert check.variant in chosen.variants
            assert not isinstance(check.against, str) or check.against in chosen.variants
            assert check.quantity in analysis.QUANTITIES
    for step in chosen.steps:
        assert {step.variant, step.base} <= chosen.variants.keys()
    recipes = [json.dumps(recipe.settings(), sort_keys=True) for recipe in chosen.variants.values()]
    assert len(set(recipes)) == len(recipes), "two variants are the same"


@pytest.mark.parametrize("chosen", ALL, ids=study.NAMES)
def test_committed_results_match_the_variants(chosen):
    for variant, seeds in run.read(chosen).items():
        for seed, stored in seeds.items():
            assert stored["settings"] == chosen.variants[variant].settings(), f"{variant} seed {seed}"
            assert len(stored["epochs"]) == chosen.variants[variant].epochs


def test_claims_from_training_to_page(tmp_path, monkeypatch):
    small = replace(RECIPE, epochs=2)
    claims = Study(
        name="claims",
        title="Claims",
        text="On stripes.",
        variants={"base": small, "small": replace(small, network_options={"body": (4, 4, 4, 4)})},
        claims=(Claim("Fewer channels", "It is worse.", (Check("test_accuracy", "small", "less", "base"),)),),
        seeds=2,
    )
    monkeypatch.setattr(run, "training_data", lambda *_: stripes(256, seed=1))
    monkeypatch.setattr(run, "held_out_data", lambda *_: stripes(128, seed=2))
    page = experiments.text(claims, run.read(claims, tmp_path))
    assert "| Fewer channels | not yet measured |" in page
    while missing := next(run.missing(claims, 2, results=tmp_path), None):
        stored = run.train(claims, *missing, threads=1, runs=tmp_path / "runs", folder=None, results=tmp_path)
        assert 0 <= stored["test_accuracy"] <= 1
        assert [line["epoch"] for line in stored["epochs"]] == [1, 2]
        assert "validation_accuracy" in stored["epochs"][0]
    assert len(list(tmp_path.glob("claims/*.json"))) == 4
    results = run.read(claims, tmp_path)
    page = experiments.text(claims, results)
    assert "4 of 4 runs are done" in page
    assert "n = 2" in page
    plots = experiments.draw(claims, results, tmp_path)
    assert [path.name for path in plots] == ["claims-curves.png", "claims-differences.png"]
    empty = experiments.draw(claims, run.read(claims, tmp_path / "nothing"), make_folder(tmp_path / "empty"))
    assert all(coloured(plot) > coloured(other) for plot, other in zip(plots, empty, strict=True))


def test_ablation_reads_only_the_validation_split(tmp_path, monkeypatch):
    small = replace(RECIPE, epochs=2)
    ablation = Study(
        name="ablation",
        title="One step",
        text="On stripes.",
        note="A note below the steps.",
        variants={"start": small, "average": replace(small, ema=0.9)},
        steps=(Step("average", "start", "moving average", True),),
        reads_test=False,
    )
    kinds = []
    monkeypatch.setattr(run, "training_data", lambda *_: stripes(256, seed=1))
    monkeypatch.setattr(run, "held_out_data", lambda _, kind, __: kinds.append(kind) or stripes(128, seed=2))
    assert "| `average`: moving average | `start` | not yet measured |" in accuracy.ablation(ablation, {})
    while missing := next(run.missing(ablation, 2, results=tmp_path), None):
        assert "test_accuracy" not in run.train(ablation, *missing, 1, tmp_path / "runs", None, tmp_path)
    assert set(kinds) == {"calibration"}
    results = run.read(ablation, tmp_path)
    own, other = (results[name][0]["epochs"][-1]["validation_loss"] for name in ("average", "start"))
    del results["average"][1], results["start"][1]
    page = accuracy.ablation(ablation, results)
    assert "A note below the steps." in page
    assert "2 of 6 runs are done" in page
    assert f"| {1000 * own:.1f} (1)<br>{1000 * (own - other):+.1f} (1) |" in page
    assert "| yes |" in page
    corrupted, epochs = (results["start"][0][key] for key in ("corrupted_accuracy", "epochs"))
    assert 0.1 < corrupted < epochs[-1]["validation_accuracy"]
    assert f"| {100 * corrupted:.1f} (1) |" in page


def test_accuracy_page_compares_with_reference_recipes():
    page = accuracy.models([card("a.notes", 0.99), card("a.plus", 0.995), card("b.plus", 0.9)], {"a.plus": 0.8})
    assert "| 99.50% (1) | +0.50 points | 80.00% |" in page
    assert page.count("points |") == 1
    assert page.count("| 80.00% |") == 1


def card(name, mean):
    return replace(CARD, name=name, accuracy=replace(CARD.accuracy, seeds=replace(SEEDS, mean=mean, sd=None, n=1)))


def test_experiments_command_trains_missing_runs(monkeypatch, tmp_path):
    response = CliRunner().invoke(main, ["experiments", "week9"])
    assert response.exit_code == 2
    assert "Available: week2" in response.output
    response = CliRunner().invoke(main, ["experiments", "week2", "--only", "bsae"])
    assert response.exit_code == 2
    assert "week2 has no variant 'bsae'" in response.output
    calls = []
    monkeypatch.setattr(run, "missing", lambda *_: iter([("base", 1)] if not calls else []))
    monkeypatch.setattr(run, "train", lambda *args: calls.append(args[1:]) or result())
    response = CliRunner().invoke(main, ["experiments", "week2", "--seeds", "2", "--threads", "1"])
    assert response.exit_code == 0, response.output
    assert calls == [("base", 1, 1, None, None)]
    assert "base seed 1: accuracy 99.00% on the test images." in response.output
