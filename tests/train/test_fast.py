"""Training against the clock: the command, the reference program, the stopwatch and the page, on synthetic digits."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench import training_profile, training_speed
from docs.build import training_speed as speed
from tests.support.examples import REPOSITORY, stripes
from train.__main__ import main
from train.fast import run as fast
from train.fast.recipes import RECIPES
from zoo.datasets import catalog as datasets

pytestmark = pytest.mark.slow


@pytest.fixture
def digits(monkeypatch):
    """Replace training and test data by synthetic ones; return the list of parts that were read."""
    reads = []

    def part(name, n, seed):
        def load(dataset, kind, folder):
            reads.append((name, kind))
            return replace(stripes(n, seed), name="validation" if (name, kind) == ("test", "calibration") else name)

        return load

    monkeypatch.setattr(fast, "training_data", part("train", 2000, 1))
    monkeypatch.setattr(fast, "held_out_data", part("test", 300, 2))
    return reads


@pytest.mark.parametrize("target", RECIPES)
def test_mnist_fast_reports_accuracy_and_seconds(target, digits, monkeypatch):
    scored, logits = [], fast.logits
    monkeypatch.setattr(fast, "logits", lambda *args: scored.append(args[1]) or logits(*args))
    quick = replace(RECIPES[target], epochs=6, batch_size=50, augment=())
    monkeypatch.setitem(
        RECIPES, target, replace(quick, augment=RECIPES[target].augment and (("shift", {"pixels": 0}),))
    )
    done = CliRunner().invoke(main, ["mnist-fast", "--target", target, "--seed", "3", "--threads", "1"])
    assert done.exit_code == 0, done.output
    correct, images, share, total, laps = re.search(
        rf"{target} seed 3: (\d+) of (\d+) test images correct \((.*)%\), (.*) s after the start .* \((.*)\)",
        done.output,
    ).groups()
    assert digits == [("train", "full"), ("test", "full")]
    assert len(scored) == 1, "the test set is read once"
    assert int(images) == 300
    assert int(correct) > 250
    assert float(share) == pytest.approx(int(correct) / 3, abs=0.01)
    seconds = dict(training_speed.LAP.findall(laps))
    assert list(seconds) == ["imports", "data", "training", "test"]
    assert sum(map(float, seconds.values())) == pytest.approx(float(total), abs=0.03)


def test_calibration_run_does_not_read_the_test_set(digits, monkeypatch):
    monkeypatch.setitem(RECIPES, "99.0", replace(RECIPES["99.0"], epochs=1))
    done = CliRunner().invoke(main, ["mnist-fast", "--calibration-run", "--threads", "1"])
    assert re.search(r"99\.0 seed 0: \d+ of 300 validation images", done.output)
    assert digits == [("train", "calibration"), ("test", "calibration")]


def test_seed_determines_the_weights():
    recipe, data = replace(RECIPES["99.4"], epochs=1), stripes(500, 1)
    first, again, other = (fast.train(recipe, seed, 1, data).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_adamw_matches_torch():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    options = {"betas": (0.9, 0.99), "weight_decay": 0.1}
    pairs = [
        (ours, fast.AdamW(ours.parameters(), **options)),
        (theirs, torch.optim.AdamW(theirs.parameters(), lr=0.0, **options)),
    ]
    for step in range(20):
        for network, optimizer in pairs:
            optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
            optimizer.zero_grad()
            network(torch.ones(2, 5) * step).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)


def test_clock_starts_with_the_process():
    started = time.time()
    code = "import time; time.sleep(0.5); from train.fast import run; print(run.since_start(), time.time())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    elapsed, now = map(float, done.stdout.split())
    assert 0.5 < elapsed
    assert elapsed == pytest.approx(now - started, abs=0.3)


def test_adamw_does_not_import_the_compiler():
    code = (
        "import sys\nfrom train.fast.run import AdamW\nAdamW([], (0.9, 0.99), 0.1)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_command_refuses_missing_data_and_unknown_target(tmp_path):
    run = CliRunner().invoke(main, ["mnist-fast", "--data", str(tmp_path)])
    assert run.exit_code == 1
    assert isinstance(run.exception, SystemExit)
    assert "MNIST" in run.output
    run = CliRunner().invoke(main, ["mnist-fast", "--target", "99.9"])
    assert run.exit_code == 2
    assert "'99.9' is not one of '99.0', '99.4'" in run.output
    assert "mnist-fast" in CliRunner().invoke(main, ["--help"]).output


@pytest.fixture
def little_mnist(monkeypatch, tmp_path):
    """128 training and 20 test images in torchvision's folder layout, for the reference program."""

    def load(name, split):
        part = stripes({"train": 128, "test": 20}[split], 1)
        return datasets.Dataset(datasets.DATASETS[name], part.images.numpy(), part.labels.numpy().astype(np.uint8))

    monkeypatch.setattr(training_speed.datasets, "load", load)
    return training_speed.idx_folder(tmp_path / "idx")


def test_reference_program_reads_the_idx_files(little_mnist):
    command = [sys.executable, "-m", "bench.pytorch_example", str(little_mnist), "--epochs=2"]
    run = training_speed.watch(command, 1, None)
    assert [score["images"] for score in run["scores"]] == [20, 20]
    assert 0 < run["scores"][0]["seconds"] < run["scores"][1]["seconds"]
    assert run["peak_mb"] > 100


def test_reference_network_has_the_example_parameters():
    from bench.pytorch_example import network

    assert sum(parameter.numel() for parameter in network().parameters()) == 1_199_882


SCORES = "import time\nfor n in (7, 9, 10):\n print(n, 'of 10 test images', flush=True); time.sleep(0.2)"


def test_watch_stops_at_the_target_score():
    command = [sys.executable, "-c", SCORES]
    assert [score["right"] for score in training_speed.watch(command, 1, 0.9)["scores"]] == [7, 9]
    assert [score["right"] for score in training_speed.watch(command, 1, None)["scores"]] == [7, 9, 10]


@pytest.mark.parametrize(
    "code", ["import sys; sys.exit('Out of memory.')", "import sys; print('Out of memory.', file=sys.stderr)"]
)
def test_watch_raises_if_the_program_fails_or_prints_no_score(code):
    with pytest.raises(RuntimeError, match="Out of memory"):
        training_speed.watch([sys.executable, "-c", f"import sys; {code}"], 1, None)


def test_page_is_built_from_runs(little_mnist, monkeypatch, tmp_path):
    program = "import os; print('{} of 10000 test images, (imports 1.0, data 0.5, training 2.0, test 0.25)')"
    contestants = {
        name: training_speed.Contestant(str(tmp_path / f"{name}.py")) for name in ("99.0", "99.4", speed.BASELINE)
    }
    for name, right in zip(contestants, (9910, 9939, 9899), strict=True):
        (tmp_path / f"{name}.py").write_text(program.format(right))
    monkeypatch.setattr(training_speed, "CONTESTANTS", contestants)
    results = tmp_path / "results"
    for seeds in (1, 2):
        run = CliRunner().invoke(training_speed.main, [f"--seeds={seeds}", f"--results={results}"])
        assert run.exit_code == 0, run.output
        assert run.output.count("after") == 3, "finished runs are not repeated"
    runs, _ = speed.read(results)
    assert [(run["contestant"], run["seed"]) for run in runs[:3]] == [("99.0", 0), ("99.0", 1), ("99.4", 0)]
    page = "\n".join(speed.tables(runs, {}).values())
    assert "| `mnist-fast --target 99.0` | 2 | 99.10% ± 0.00% | 99.10% |" in page
    assert "99.4%: 0 of 2" in page
    assert "2 of the runs" in page
    assert "| `99.0` | 1.00 | 0.50 | 2.00 | 0.25 |" in page
    other = json.loads(json.dumps(runs[0]))
    other["environment"]["torch"] = "1.0"
    with pytest.raises(ValueError, match="different machines or versions"):
        speed.tables([*runs, other], {})


def test_profile_parts_sum_to_the_step():
    profile = training_profile.profile("99.4", 1, stripes(2000, 1), steps=8)
    assert profile["parts_ms"].keys() == speed.PARTS.keys()
    # the parts are medians and the step is a mean, which a busy machine stretches
    assert 0.05 < sum(profile["parts_ms"].values()) / profile["step_ms"] < 1.5
    table = speed.steps({"99.4": [profile | {"peak_mb": {"imports": 1, "data": 2, "steps": 3}}]})
    assert f"| optimizer | {profile['parts_ms']['optimizer']:.2f} (" in table
    assert "| peak memory, MB | 1 → 2 → 3 |" in table


def test_page_without_runs_says_not_measured():
    assert all("Not measured yet" in text for text in speed.tables([], {}).values())


def test_committed_runs_match_the_targets():
    runs, profiles = speed.read()
    assert {run["contestant"] for run in runs} == {*RECIPES, speed.BASELINE}
    assert profiles.keys() == RECIPES.keys()
