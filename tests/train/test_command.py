"""`python -m train`: messages, resuming, exporting models of one's own, choice of threads, help and errors."""

import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import zoo
from tests.support.examples import RECIPE, stripes
from tests.support.paths import REPOSITORY
from train import start
from train.__main__ import KEEP_MEMORY, main
from train.loop import TrainingJob
from train.recipe import find, names
from train.report import draw
from train.runs import Run
from zoo import registry
from zoo.errors import BadModel, ZooError

pytestmark = pytest.mark.slow


@pytest.fixture
def synthetic_data(monkeypatch):
    monkeypatch.setattr("train.data.training_data", lambda *_: stripes(320, 1))
    monkeypatch.setattr("train.data.held_out_data", lambda *_: stripes(200, 2))
    monkeypatch.setattr("train.export.held_out_data", lambda *_: stripes(200, 2))


@pytest.fixture
def run(synthetic_data, monkeypatch, empty_home):
    """Run the command; return exit code, stdout and stderr. Runs are stored in the test's own $ZOO_HOME.

    It does not draw the runs' curves, which takes as long as the training; tests of that restore `draw`.
    """
    monkeypatch.setattr("train.start.MEASURE_S", 0.001)
    monkeypatch.setattr("train.report.draw", lambda _: None)

    def call(*arguments):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="python -m train")
        return done.exit_code, done.stdout, done.stderr

    return call


def stop_in(monkeypatch, epoch):
    """Raise KeyboardInterrupt in the middle of an epoch (counted from 0)."""

    def step(self, at, epochs, seen, *rest):
        if self.title and at == epoch and seen > 100:  # not while `fastest` times steps
            raise KeyboardInterrupt

    monkeypatch.setattr("train.progress.Progress.step", step)


def do_not_stop(monkeypatch):
    monkeypatch.setattr("train.progress.Progress.step", lambda *_: None)


NAME = "mnist14k.notes"


def test_messages_describe_run_and_next_command(run, monkeypatch, empty_home):
    monkeypatch.setattr("train.report.draw", draw)
    code, out, err = run(NAME, "--epochs", 1, "--threads", 1)
    assert code == 0, err
    folder = empty_home / "runs" / NAME / "seed0"
    assert find(NAME).title in err
    assert "1 epoch, 320 images per epoch (all training images), seed 0, 1 thread, about " in err
    assert f"Run folder: {folder}." in err
    assert (folder / "curves.png").exists()
    assert "Next: python -m train export mnist14k.notes --as mnist14k.mine\n" in err
    assert err.index("Run folder") < err.index("images/s") < err.index("Next: ")
    assert out.startswith(f"{NAME} seed 0: ")
    code, _, err = run(NAME, "--calibration-run", "--epochs", 1, "--threads", 1)
    assert code == 0
    assert "the training split, measured on the validation split" in err
    assert f"Next: python -m train {NAME}\n" in err


def test_existing_run_is_refused_before_timing(run, monkeypatch):
    assert run(NAME, "--epochs", 1, "--threads", 1)[0] == 0
    monkeypatch.setattr("train.start.fastest", lambda *_: pytest.fail("measured"))
    code, _, err = run(NAME)
    assert code == 1
    assert "already contains a run" in err
    assert "--resume" in err
    assert "--restart" in err


@pytest.mark.parametrize("options", [[], ["--seed", 3], ["--calibration-run"], ["--seed", 3, "--calibration-run"]])
def test_resume_uses_the_options_of_the_run(run, monkeypatch, empty_home, options):
    """Epochs, threads, seed, kind and data come from the run; the weights are those of an uninterrupted run."""
    assert run(NAME, *options, "--epochs", 2, "--threads", 1, "--data", empty_home)[0] == 0
    (finished,) = (empty_home / "runs" / NAME).iterdir()
    whole = load_file(finished / "model.safetensors")
    stop_in(monkeypatch, 1)
    code, _, err = run(NAME, *options, "--epochs", 2, "--threads", 1, "--data", empty_home, "--restart")
    assert code == 130
    hint = f"python -m train {' '.join([NAME, *map(str, options)])} --resume\n"
    assert f"Stopped. To continue: {hint}" in err
    do_not_stop(monkeypatch)
    loads = []
    monkeypatch.setattr("train.data.training_data", lambda *args: loads.append(args) or stripes(320, 1))
    monkeypatch.setattr("train.start.fastest", lambda *_: pytest.fail("measured"))
    code, _, err = run(NAME, "--resume")
    assert code == 0, err
    assert "2 epochs (1 done)" in err
    assert loads[0][2] == str(empty_home)
    again = load_file(finished / "model.safetensors")
    assert all(torch.equal(again[key], whole[key]) for key in whole)


def test_resume_with_other_options_is_refused(run, monkeypatch):
    stop_in(monkeypatch, 0)
    assert run(NAME, "--epochs", 2, "--threads", 1)[0] == 130
    do_not_stop(monkeypatch)
    code, _, err = run(NAME, "--resume", "--epochs", 3)
    assert code == 1
    assert "epochs was 2, now 3" in err


def test_resume_without_seed_continues_the_unfinished_run(run, monkeypatch, empty_home):
    code, _, err = run(NAME, "--resume")
    assert code == 1
    assert "no unfinished run" in err
    assert "Omit --resume" in err
    assert run(NAME, "--epochs", 1, "--threads", 1)[0] == 0
    code, _, err = run(NAME, "--resume")
    assert code == 1
    assert "finished: seed0" in err
    stop_in(monkeypatch, 0)
    for options in (["--seed", 4], ["--calibration-run"]):
        assert run(NAME, *options, "--epochs", 1, "--threads", 1)[0] == 130
    do_not_stop(monkeypatch)
    code, _, err = run(NAME, "--resume")
    assert code == 2
    assert "Several runs of mnist14k.notes are unfinished: calibration, seed4." in err
    assert run(NAME, "--resume", "--calibration-run")[0] == 0
    code, out, _ = run(NAME, "--resume")
    assert code == 0
    assert f"{NAME} seed 4: " in out


def test_run_without_epochs_is_drawn_without_warning(run, monkeypatch, empty_home):
    """pytest turns every warning into an error."""
    monkeypatch.setattr("train.report.draw", draw)
    stop_in(monkeypatch, 0)
    assert run(NAME, "--epochs", 2, "--threads", 1)[0] == 130
    folder = empty_home / "runs" / NAME / "seed0"
    assert (folder / "curves.png").exists()
    draw(Run(folder))


@pytest.mark.parametrize("seed", [0, 2])
def test_export_as_own_model(run, empty_home, seed):
    options = ["--seed", seed] if seed else []
    assert run(NAME, *options, "--epochs", 1, "--threads", 1)[0] == 0
    assert run(NAME, *options, "--calibration-run", "--epochs", 1, "--threads", 1)[0] == 0
    code, _, err = run("export", NAME, "--to", empty_home / "models")
    assert code == 1
    assert ("There is no finished run" if seed else "export it under another name with --as") in err
    code, out, err = run("export", NAME, "--as", "mnist14k.mine", *options)
    assert code == 0, err
    assert f"mnist14k.mine {registry.find('mnist14k.mine').card.version}: " in out
    assert "Next: zoo predict IMAGE --model mnist14k.mine\n" in err
    model = zoo.load("mnist14k.mine", "cpu")
    card = model.card
    assert (card.name, card.default, card.training.seed, card.training.epochs) == ("mnist14k.mine", False, seed, 1)
    assert card.title.endswith("; epochs: 1 instead of 20")
    assert (card.training.settings["epochs"], card.training.settings["name"]) == (1, NAME)
    assert card.accuracy.seeds.n == 1
    assert card.calibration.source.startswith("calibration run")
    data = stripes(200, 2)
    correct = int((model.run(data.images.numpy()).logits.argmax(1) == data.labels.numpy()).sum())
    assert card.accuracy.correct == correct
    assert registry.find("mnist14k").shipped  # a bare name still means the shipped model


@pytest.mark.parametrize("averaged", [False, True])
def test_export_interrupted_run_as_own_model(run, monkeypatch, empty_home, averaged):
    name = "mnist14k.plus" if averaged else NAME
    stop_in(monkeypatch, 1)
    code, _, err = run(name, "--seed", 3, "--epochs", 4, "--threads", 1)
    assert code == 130
    assert f"To use it as it is: python -m train export {name} --as mnist14k.mine --seed 3\n" in err
    code, _, err = run("export", name, "--to", empty_home / "models")  # only a finished run is the recipe's own model
    assert code == 1
    assert "There is no finished run" in err
    code, _, err = run("export", name, "--as", "mnist14k.mine", "--seed", 3)
    assert code == 0, err
    card, checkpoint = zoo.load("mnist14k.mine", "cpu").card, Run(empty_home / "runs" / name / "seed3")
    assert card.title.endswith("; stopped after 1 of 4 epochs")
    assert (card.training.epochs, card.training.settings["epochs"], card.accuracy.seeds.n) == (1, 4, 1)
    assert card.training.seconds == round(checkpoint.metrics()[0]["seconds"], 1)
    assert card.calibration.source.startswith("no calibration run")
    assert len(checkpoint.metrics()) == 1
    weights = load_file(empty_home / "models" / "mnist14k.mine" / "model.safetensors")
    saved = load_file(checkpoint.checkpoint)
    prefix = "average.module." if averaged else "network."
    assert all(torch.equal(value, saved[prefix + key]) for key, value in weights.items())
    do_not_stop(monkeypatch)
    assert run(name, "--seed", 3, "--resume")[0] == 0  # exporting has not changed the run


def test_export_run_without_complete_epoch_is_an_error(run, monkeypatch, empty_home):
    stop_in(monkeypatch, 0)
    assert run(NAME, "--epochs", 2, "--threads", 1)[0] == 130
    code, out, err = run("export", NAME, "--as", "own.x")
    assert (code, out) == (1, "")
    assert "no complete epoch yet. Continue it: python -m train mnist14k.notes --seed 0 --resume" in err
    assert os.listdir(empty_home / "models") == []


def test_export_ignores_seeds_with_other_epochs(run):
    for seed, epochs in ((0, 1), (1, 1), (2, 2)):
        assert run(NAME, "--seed", seed, "--epochs", epochs, "--threads", 1)[0] == 0
    assert run(NAME, "--calibration-run", "--epochs", 2, "--threads", 1)[0] == 0
    assert run("export", NAME, "--as", "own.model", "--seed", 1)[0] == 0
    card = registry.find("own").card
    assert card.accuracy.seeds.n == 2
    assert card.calibration.source.startswith("no calibration run")  # there is one, but with seed 0 and other epochs


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--as", "mnist14k.notes"], 2, "mnist14k.notes is the name of a model shipped"),
        (["--as", "mnist14k"], 2, "mnist14k is the short name of a model shipped"),
        (["--as", "../x"], 2, "'../x' is not a valid model name"),
        (["--as", "own.x", "--to", str(registry.SHIPPED_FOLDER)], 2, "is reserved for the recipes' own models"),
        (["--seed", "1"], 2, "add --as NAME"),
        (["--as", "own.x"], 1, "python -m train mnist14k.notes --seed 0"),
        (["--as", "own.x", "--seed", "7"], 1, "python -m train mnist14k.notes --seed 7"),
    ],
)
def test_export_refuses_bad_names_and_missing_runs(run, empty_home, options, code, words):
    exit_code, out, err = run("export", NAME, *options)
    assert (exit_code, out) == (code, "")
    assert words in err
    assert os.listdir(empty_home / "models") == []


def test_export_to_folder_names_it_in_next_command(run, tmp_path):
    assert run(NAME, "--epochs", 1, "--threads", 1, "--runs", tmp_path / "my runs")[0] == 0
    target = tmp_path / "my models"
    code, _, err = run("export", NAME, "--as", "own.x", "--runs", tmp_path / "my runs", "--to", target)
    assert code == 0
    assert f"Next: zoo predict IMAGE --model '{target / 'own.x'}'" in err
    assert zoo.load(target / "own.x").card.name == "own.x"


@pytest.mark.parametrize("command", ["report", "export", "describe", "quantize", "robustness"])
def test_unknown_names_exit_with_an_error_message(run, command):
    code, out, err = run(command, "nothing.here")
    assert (code, out) == (3 if command in ("quantize", "robustness") else 2, "")
    assert "Traceback" not in err
    assert "nothing.here" in err


def test_subclass_of_zoo_error_keeps_its_exit_code(run, monkeypatch):
    class PluginError(BadModel):
        pass

    def fail(*_):
        raise PluginError("The plug-in failed.")

    monkeypatch.setattr("train.robustness.measure", fail)
    code, _, err = run("robustness", "x")
    assert (code, err) == (3, "Error: The plug-in failed.\n")


def test_expected_errors_are_zoo_errors():
    from bench.runtimes import Unavailable
    from zoo.errors import ExportError, RunError

    assert all(issubclass(kind, ZooError) for kind in (Unavailable, ExportError, RunError))


def test_help_fits_80_columns_with_one_line_per_command(run):
    code, out, _ = run("-h")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    recipes, commands = (
        section.split("\n\n")[0] for section in (out.split("Recipes:\n")[1], out.split("Commands:\n")[1])
    )
    assert "..." not in recipes + commands
    assert [line.split()[0] for line in recipes.splitlines()] == names()
    assert {line.split()[0] for line in commands.splitlines()} == main.commands.keys()


def test_fastest_prefers_few_threads(monkeypatch):
    """With given times in seconds per step, by number of threads."""
    used, times = [], {1: 2.0, 2: 1.0, 4: 0.95, 6: 1.5}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(start, "_steps", lambda *_: iter([None]))
    monkeypatch.setattr(start, "_mean_seconds", lambda step: times[used[-1]])
    assert start.fastest(RECIPE, stripes(10, 0)) == start.Speed(2, 1.0)
    assert set(used) == {1, 2, 4, 6}
    times[1] = 1.04
    assert start.fastest(RECIPE, stripes(10, 0)).threads == 1
    used.clear()
    assert start.fastest(RECIPE, stripes(10, 0), 4) == start.Speed(4, 0.95)
    assert set(used) == {4}


def test_timing_steps_does_not_change_a_run(tmp_path):
    from tests.support.examples import quiet
    from train.loop import fit

    job = TrainingJob(RECIPE, "full", 7, 1, 1)
    fit(job, Run(tmp_path / "a"), stripes(320, 1), stripes(200, 2), quiet())
    speed = start.fastest(RECIPE, stripes(320, 1))
    assert 0 < speed.step_s < 5
    fit(job, Run(tmp_path / "b"), stripes(320, 1), stripes(200, 2), quiet())
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (420, "7 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_duration_has_a_suitable_unit(seconds, text):
    assert start.duration(seconds) == text


def test_commands_to_type_are_complete(tmp_path):
    job = TrainingJob(RECIPE, "calibration", 3, 20, 1)
    assert start.resume_command(job, None) == "python -m train mnist14k.notes --seed 3 --calibration-run --resume"
    assert start.next_command(job, tmp_path / "a b") == (
        f"python -m train mnist14k.notes --seed 3 --runs '{tmp_path / 'a b'}'"
    )
    full = TrainingJob(RECIPE, "full", 3, 20, 1)
    assert start.next_command(full, None) == "python -m train export mnist14k.notes --as mnist14k.mine --seed 3"


def test_help_works_and_training_names_the_package_without_torch():
    script = (
        "import runpy, sys\nsys.modules['torch'] = None\nsys.argv = ['train', *sys.argv[1:]]\n"
        "runpy.run_module('train', run_name='__main__')"
    )
    environment = os.environ | KEEP_MEMORY  # otherwise the program starts itself again
    run = lambda *arguments: subprocess.run(  # noqa: E731
        [sys.executable, "-c", script, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert "mnist14k.notes" in run("--help").stdout
    done = run("mnist14k.notes", "--epochs", "1")
    assert done.returncode == 1
    assert "torch is not installed" in done.stderr
    assert "Traceback" not in done.stderr
