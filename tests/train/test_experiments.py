"""Studies: what is asked of the results, what may be concluded, and one small study from training to page."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from docs.build import accuracy as ladders
from docs.build import experiments as pages
from tests.support.examples import RECIPE, stripes
from train.__main__ import main
from train.experiments import quantities, run, study, verdicts
from train.experiments.study import Check, Claim, Rung, Study
from zoo import registry

CARD = registry.find("mnist14k.notes").card
SEEDS = CARD.accuracy.seeds
ALL = [study.find(name) for name in study.NAMES]


def result(test=0.99, train=0.995, logged=0.98, validations=(0.9, 0.95, 0.94, 0.96)):
    lines = [{"epoch": n, "train_accuracy": logged, "validation_accuracy": v} for n, v in enumerate(validations, 1)]
    return {"test_accuracy": test, "train_accuracy": train, "epochs": lines, "training_s": 60.0}


def test_quantities():
    made = result()
    assert quantities.test_accuracy(made) == pytest.approx(99.0)
    assert quantities.logged_gap(made) == pytest.approx(2.0)
    assert quantities.gap(made) == pytest.approx(3.5)
    assert quantities.fluctuation(made) == pytest.approx(1.5)  # 0.95 → 0.94 → 0.96: the second half
    assert quantities.falls(made) == 1
    assert quantities.falls(result(validations=(0.9, 0.9, 0.95))) == 0


@pytest.mark.parametrize(
    ("expected", "differences", "verdict"),
    [
        ("same", (0.01, -0.01, 0.0), "holds"),
        ("same", (0.01, -0.3, 0.3), "cannot be told"),
        ("same", (0.5, 0.51, 0.52), "does not hold"),
        ("more", (0.5, 0.51, 0.52), "holds"),
        ("more", (-0.5, -0.51, -0.52), "does not hold"),
        ("more", (0.5, -0.5, 0.1), "cannot be told"),
        ("more", (0.5,), "cannot be told"),
        ("less", (-0.5, -0.51, -0.52), "holds"),
        ("less", (0.5, 0.51, 0.52), "does not hold"),
        ("no less", (-0.05, -0.051, -0.052), "holds"),
        ("no less", (0.5, 0.51, 0.52), "holds"),
        ("no less", (-0.5, -0.51, -0.52), "does not hold"),
    ],
)
def test_comparisons(expected, differences, verdict):
    results = {
        "base": {seed: result(test=0.99) for seed in range(4)},
        "other": {seed: result(test=0.99 + points / 100) for seed, points in enumerate(differences)},
    }
    found = verdicts.judge(Check("test_accuracy", "other", expected, "base", 0.1), results)
    assert found.verdict == verdict
    assert found.difference.n == len(differences)


def test_differences_are_paired_by_seed():
    """Seeds that differ widely, but alike in both variants, still tell."""
    results = {
        "base": {0: result(test=0.90), 1: result(test=0.95), 2: result(test=0.99)},
        "other": {0: result(test=0.902), 1: result(test=0.952), 2: result(test=0.9921), 7: result(test=0.1)},
    }
    found = verdicts.judge(Check("test_accuracy", "other", "more", "base"), results)
    assert found.verdict == "holds"
    assert found.difference.n == 3


def test_students_interval():
    estimate = verdicts.Estimate.of([1.0, 2.0, 3.0])
    assert estimate.half_width == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert verdicts.Estimate.of([1.0]).half_width == float("inf")


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [((99.5, 99.5, 99.51), "holds"), ((99.4, 99.5, 99.35), "cannot be told"), ((99.1, 99.1, 99.11), "does not hold")],
)
def test_a_figure_to_reach(accuracies, verdict):
    results = {"base": {seed: result(test=value / 100) for seed, value in enumerate(accuracies)}}
    assert verdicts.judge(Check("test_accuracy", "base", "at least", 99.4), results).verdict == verdict


def test_none_and_all_together():
    rising, falling = result(validations=(0.9, 0.95, 0.96)), result()
    check = Check("falls", "base", "none")
    assert verdicts.judge(check, {"base": {0: rising}}).verdict == "holds"
    assert verdicts.judge(check, {"base": {0: rising, 1: falling}}).verdict == "does not hold"
    assert verdicts.judge(check, {}).verdict == "cannot be told"
    assert verdicts.all_together(["holds", "holds"]) == "holds"
    assert verdicts.all_together(["holds", "cannot be told"]) == "cannot be told"
    assert verdicts.all_together(["cannot be told", "does not hold"]) == "does not hold"


@pytest.mark.parametrize("found", ALL, ids=study.NAMES)
def test_studies_ask_for_what_is_there(found):
    for claim in found.claims:
        for check in claim.checks:
            assert check.variant in found.variants
            assert not isinstance(check.against, str) or check.against in found.variants
            assert check.quantity in quantities.SHOWN
            assert callable(getattr(quantities, check.quantity))
    for rung in found.rungs:
        assert {rung.variant, rung.on} <= found.variants.keys()
    recipes = [json.dumps(recipe.settings(), sort_keys=True) for recipe in found.variants.values()]
    assert len(set(recipes)) == len(recipes), "two variants are the same"


@pytest.mark.parametrize("found", ALL, ids=study.NAMES)
def test_committed_results_are_of_the_variants_as_they_are(found):
    for variant, seeds in run.read(found).items():
        for seed, told in seeds.items():
            assert told["settings"] == found.variants[variant].settings(), f"{variant} seed {seed}"
            assert len(told["epochs"]) == found.variants[variant].epochs


def test_from_training_to_page(tmp_path, monkeypatch):
    small = replace(RECIPE, epochs=2)
    found = Study(
        name="tried",
        title="Tried out",
        text="Nothing but stripes.",
        variants={"base": small, "small": replace(small, network_options={"body": (4, 4, 4, 4)})},
        claims=(Claim("Fewer channels", "It is worse.", (Check("test_accuracy", "small", "less", "base"),)),),
        seeds=2,
    )
    monkeypatch.setattr(run, "training_part", lambda *_: stripes(256, seed=1))
    monkeypatch.setattr(run, "held_out_part", lambda *_: stripes(128, seed=2))
    page = pages.text(found, run.read(found, tmp_path))
    assert "| Fewer channels | not yet measured |" in page
    while left := next(run.missing(found, 2, results=tmp_path), None):
        told = run.train(found, *left, threads=1, runs=tmp_path / "runs", folder=None, results=tmp_path)
        assert 0 <= told["test_accuracy"] <= 1
        assert [line["epoch"] for line in told["epochs"]] == [1, 2]
        assert "validation_accuracy" in told["epochs"][0]
    assert len(list(tmp_path.glob("tried/*.json"))) == 4
    results = run.read(found, tmp_path)
    page = pages.text(found, results)
    assert "4 of 4 runs are done" in page
    assert "n = 2" in page
    for picture in pages.draw(found, results, tmp_path):
        assert picture.stat().st_size > 10_000


def test_a_ladder_chooses_on_the_validation_split_alone(tmp_path, monkeypatch):
    small = replace(RECIPE, epochs=2)
    found = Study(
        name="climbed",
        title="One step",
        text="Nothing but stripes.",
        variants={"start": small, "average": replace(small, ema=0.9)},
        rungs=(Rung("average", "start", "moving average", True),),
        reads_test=False,
    )
    asked = []
    monkeypatch.setattr(run, "training_part", lambda *_: stripes(256, seed=1))
    monkeypatch.setattr(run, "held_out_part", lambda _, kind, __: asked.append(kind) or stripes(128, seed=2))
    assert "| `average`: moving average | `start` | not yet measured |" in ladders.page([], [(found, {})])
    while left := next(run.missing(found, 2, results=tmp_path), None):
        assert "test_accuracy" not in run.train(found, *left, 1, tmp_path / "runs", None, tmp_path)
    assert set(asked) == {"twin"}
    results = run.read(found, tmp_path)
    own, other = (results[name][0]["epochs"][-1]["validation_loss"] for name in ("average", "start"))
    del results["average"][1], results["start"][1]
    page = ladders.page([], [(found, results)])
    assert "2 of 6 runs are done" in page
    assert f"| {1000 * own:.1f} (1) | {1000 * (own - other):+.1f} (1) |" in page
    assert "| yes |" in page
    less, whole = (results["start"][0][key] for key in ("corrupted_accuracy", "epochs"))
    assert 0.1 < less < whole[-1]["validation_accuracy"]
    assert f"| {100 * less:.1f} (1) |" in page


def test_our_trainings_are_held_against_the_others():
    page = ladders.page([card("a.notes", 0.99), card("a.plus", 0.995), card("b.plus", 0.9)], [], {"a.plus": 0.8})
    assert "| 99.50 % (1) | +0.50 points | 80.00 % |" in page
    assert page.count("points |") == 1
    assert page.count("| 80.00 % |") == 1


def card(name, accuracy):
    return replace(CARD, name=name, accuracy=replace(CARD.accuracy, seeds=replace(SEEDS, mean=accuracy, sd=None, n=1)))


def test_the_command(monkeypatch, tmp_path):
    said = CliRunner().invoke(main, ["experiments", "week9"])
    assert said.exit_code == 2
    assert "There are: week2" in said.output
    said = CliRunner().invoke(main, ["experiments", "week2", "--only", "bsae"])
    assert said.exit_code == 2
    assert "week2 has no variant 'bsae'" in said.output
    done = []
    monkeypatch.setattr(run, "missing", lambda *_: iter([("base", 1)] if not done else []))
    monkeypatch.setattr(run, "train", lambda *given: done.append(given[1:]) or result())
    said = CliRunner().invoke(main, ["experiments", "week2", "--seeds", "2", "--threads", "1"])
    assert said.exit_code == 0, said.output
    assert done == [("base", 1, 1, None, None)]
    assert "base seed 1: 99.00% of the test images." in said.output
