"""`python -m train`: what it says before and after, resuming by the run's own record, exports of one's own, threads."""

import os

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import zoo
from tests.support.examples import RECIPE, stripes
from train import start
from train.__main__ import main
from train.loop import Job
from train.recipe import find
from train.report import draw
from train.runs import Run
from zoo import registry
from zoo.errors import BadModel, ZooError


@pytest.fixture
def made_up_data(monkeypatch):
    monkeypatch.setattr("train.data.training_part", lambda *_: stripes(320, 1))
    monkeypatch.setattr("train.data.held_out_part", lambda *_: stripes(200, 2))
    monkeypatch.setattr("train.export.held_out_part", lambda *_: stripes(200, 2))


@pytest.fixture
def run(made_up_data, monkeypatch, empty_home):
    """Run the command; returns exit code, stdout, stderr. Run folders lie in the test's own $ZOO_HOME."""
    monkeypatch.setattr("train.start.MEASURED_S", 0.001)

    def call(*arguments):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="python -m train")
        return done.exit_code, done.stdout, done.stderr

    return call


def stop_in(monkeypatch, epoch):
    """Press Ctrl-C in the middle of an epoch, counted from 0."""

    def step(self, at, epochs, seen, *rest):
        if self.title and at == epoch and seen > 100:  # not while steps are timed
            raise KeyboardInterrupt

    monkeypatch.setattr("train.progress.Progress.step", step)


def go_on(monkeypatch):
    monkeypatch.setattr("train.progress.Progress.step", lambda *_: None)


NAME = "mnist14k.notes"


def test_says_what_it_does_and_what_to_type_next(run, empty_home):
    code, out, err = run(NAME, "--epochs", 1, "--threads", 1)
    assert code == 0, err
    folder = empty_home / "runs" / NAME / "seed0"
    for words in (
        find(NAME).title, "1 epoch, 320 images an epoch (all training images), seed 0, 1 thread: about ",
        f"The run lies in {folder}; Ctrl-C", "Next: python -m train export mnist14k.notes --as mnist14k.mine\n",
    ):  # fmt: skip
        assert words in err
    assert err.index("The run lies in") < err.index("images/s") < err.index("Next: ")
    assert out.startswith(f"{NAME} seed 0: ")
    code, _, err = run(NAME, "--twin", "--epochs", 1, "--threads", 1)
    assert code == 0
    assert "the training split, measured on the validation split" in err
    assert f"Next: python -m train {NAME}\n" in err


def test_refuses_to_begin_over_a_run_before_it_measures(run, monkeypatch):
    assert run(NAME, "--epochs", 1, "--threads", 1)[0] == 0
    monkeypatch.setattr("train.start.fastest", lambda *_: pytest.fail("measured"))
    code, _, err = run(NAME)
    assert code == 1
    assert "holds a run already: --resume continues it, --restart replaces it." in err


@pytest.mark.parametrize("options", [[], ["--seed", 3], ["--twin"], ["--seed", 3, "--twin"]])
def test_resume_takes_the_options_from_the_run(run, monkeypatch, empty_home, options):
    """Epochs, threads, seed, kind and data are the run's own; the weights are those of a run without a stop."""
    assert run(NAME, *options, "--epochs", 2, "--threads", 1, "--data", empty_home)[0] == 0
    (finished,) = (empty_home / "runs" / NAME).iterdir()
    whole = load_file(finished / "model.safetensors")
    stop_in(monkeypatch, 1)
    code, _, err = run(NAME, *options, "--epochs", 2, "--threads", 1, "--data", empty_home, "--restart")
    assert code == 130
    hint = f"python -m train {' '.join([NAME, *map(str, options)])} --resume\n"
    assert err.endswith(f"Stopped. To go on from the last whole epoch: {hint}")
    go_on(monkeypatch)
    used = []
    monkeypatch.setattr("train.data.training_part", lambda *given: used.append(given) or stripes(320, 1))
    monkeypatch.setattr("train.start.fastest", lambda *_: pytest.fail("measured"))
    code, _, err = run(NAME, "--resume")
    assert code == 0, err
    assert "2 epochs, of which 1 are done" in err
    assert used[0][2] == str(empty_home)
    again = load_file(finished / "model.safetensors")
    assert all(torch.equal(again[key], whole[key]) for key in whole)


def test_resume_with_other_options_than_the_run_had_is_refused(run, monkeypatch):
    stop_in(monkeypatch, 0)
    assert run(NAME, "--epochs", 2, "--threads", 1)[0] == 130
    go_on(monkeypatch)
    code, _, err = run(NAME, "--resume", "--epochs", 3)
    assert code == 1
    assert "epochs was 2 and is 3" in err


def test_resume_without_a_seed_takes_the_one_unfinished_run(run, monkeypatch, empty_home):
    code, _, err = run(NAME, "--resume")
    assert code == 1
    assert "holds no unfinished run to resume: leave --resume out" in err
    assert run(NAME, "--epochs", 1, "--threads", 1)[0] == 0
    code, _, err = run(NAME, "--resume")
    assert code == 1
    assert "finished: seed0" in err
    stop_in(monkeypatch, 0)
    for options in (["--seed", 4], ["--twin"]):
        assert run(NAME, *options, "--epochs", 1, "--threads", 1)[0] == 130
    go_on(monkeypatch)
    code, _, err = run(NAME, "--resume")
    assert code == 2
    assert "Several runs of mnist14k.notes are unfinished (seed4, twin)" in err
    assert run(NAME, "--resume", "--twin")[0] == 0
    code, out, _ = run(NAME, "--resume")
    assert code == 0
    assert f"{NAME} seed 4: " in out


def test_a_run_stopped_in_its_first_epoch_is_drawn_without_a_warning(run, monkeypatch, empty_home):
    """pytest makes an error of every warning."""
    stop_in(monkeypatch, 0)
    assert run(NAME, "--epochs", 2, "--threads", 1)[0] == 130
    folder = empty_home / "runs" / NAME / "seed0"
    assert (folder / "curves.png").exists()
    draw(Run(folder))


@pytest.mark.parametrize("seed", [0, 2])
def test_any_run_becomes_a_model_of_ones_own(run, empty_home, seed):
    options = ["--seed", seed] if seed else []
    assert run(NAME, *options, "--epochs", 1, "--threads", 1)[0] == 0
    assert run(NAME, *options, "--twin", "--epochs", 1, "--threads", 1)[0] == 0
    code, _, err = run("export", NAME, "--to", empty_home / "models")
    assert code == 1
    assert ("holds no finished run" if seed else "or export it as your own, with --as NAME.") in err
    code, out, err = run("export", NAME, "--as", "mnist14k.mine", *options)
    assert code == 0, err
    assert "mnist14k.mine 1.0.0: " in out
    assert "Next: zoo predict IMAGE --model mnist14k.mine\n" in err
    model = zoo.load("mnist14k.mine", "cpu")
    card = model.card
    assert (card.name, card.default, card.training.seed, card.training.epochs) == ("mnist14k.mine", False, seed, 1)
    assert card.title.endswith("; epochs: 1 instead of 20")
    assert (card.training.settings["epochs"], card.training.settings["name"]) == (1, NAME)
    assert card.accuracy.seeds.n == 1
    assert card.calibration.source.startswith("a twin")
    data = stripes(200, 2)
    right = int((model.run(data.images.numpy()).logits.argmax(1) == data.labels.numpy()).sum())
    assert card.accuracy.correct == right
    assert registry.find("mnist14k").shipped  # a bare name means what it meant


def test_seeds_of_other_epochs_are_left_out_of_an_own_model(run):
    for seed, epochs in ((0, 1), (1, 1), (2, 2)):
        assert run(NAME, "--seed", seed, "--epochs", epochs, "--threads", 1)[0] == 0
    assert run(NAME, "--twin", "--epochs", 2, "--threads", 1)[0] == 0
    assert run("export", NAME, "--as", "own.model", "--seed", 1)[0] == 0
    card = registry.find("own").card
    assert card.accuracy.seeds.n == 2
    assert card.calibration.source.startswith("nothing")  # the calibration run is of seed 0, and of other epochs


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--as", "mnist14k.notes"], 2, "mnist14k.notes is a model that pocketzoo ships"),
        (["--as", "../x"], 2, "'../x' cannot be a model's name"),
        (["--as", "own.x", "--to", str(registry.SHIPPED)], 2, "holds the recipes' own models"),
        (["--seed", "1"], 2, "add --as NAME"),
        (["--as", "own.x"], 1, "holds no finished run: python -m train mnist14k.notes --seed 0"),
        (["--as", "own.x", "--seed", "7"], 1, "holds no finished run: python -m train mnist14k.notes --seed 7"),
    ],
)
def test_an_export_that_cannot_be_is_a_sentence(run, empty_home, options, code, words):
    got, out, err = run("export", NAME, *options)
    assert (got, out) == (code, "")
    assert words in err
    assert os.listdir(empty_home / "models") == []


def test_an_own_folder_of_models_is_named_in_the_next_line(run, tmp_path):
    assert run(NAME, "--epochs", 1, "--threads", 1, "--runs", tmp_path / "my runs")[0] == 0
    target = tmp_path / "my models"
    code, _, err = run("export", NAME, "--as", "own.x", "--runs", tmp_path / "my runs", "--to", target)
    assert code == 0
    assert f"Next: zoo predict IMAGE --model '{target / 'own.x'}'" in err
    assert zoo.load(target / "own.x").card.name == "own.x"


@pytest.mark.parametrize("command", ["report", "export", "describe", "quantize", "robustness"])
def test_errors_are_sentences_with_their_exit_code(run, command):
    code, out, err = run(command, "nothing.here")
    assert (code, out) == (3 if command in ("quantize", "robustness") else 2, "")
    assert "Traceback" not in err
    assert "nothing.here" in err


def test_errors_of_a_class_that_nobody_knows_keep_their_exit_code(run, monkeypatch):
    class Strange(BadModel):
        """Of a plug-in, say."""

    def fail(*_):
        raise Strange("A strange sentence.")

    monkeypatch.setattr("train.robustness.measure", fail)
    code, _, err = run("robustness", "x")
    assert (code, err) == (3, "Error: A strange sentence.\n")


def test_what_can_be_expected_is_a_zoo_error():
    from bench.runtimes import Unavailable
    from train.export import ExportError
    from train.runs import RunError

    assert all(issubclass(kind, ZooError) for kind in (Unavailable, ExportError, RunError))


def test_help_is_not_cut(run):
    code, out, _ = run("-h")
    assert code == 0
    assert "..." not in out.split("Recipes")[1]
    assert out.count("mnist14k.notes") == 1
    for name in ("export", "docs", "mnist-fast", "experiments"):
        assert f"  {name} " in out.split("Commands:")[1]


def test_the_fewest_threads_that_are_not_slower_are_taken(monkeypatch):
    """With made-up times: seconds of a step by number of threads."""
    used, times = [], {1: 2.0, 2: 1.0, 4: 0.95, 6: 1.5}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(start, "_steps", lambda *_: iter([None]))
    monkeypatch.setattr(start, "_measured", lambda step: times[used[-1]])
    assert start.fastest(RECIPE, stripes(10, 0)) == start.Speed(2, 1.0)
    assert set(used) == {1, 2, 4, 6}
    times[1] = 1.04
    assert start.fastest(RECIPE, stripes(10, 0)).threads == 1
    used.clear()
    assert start.fastest(RECIPE, stripes(10, 0), 4) == start.Speed(4, 0.95)
    assert set(used) == {4}


def test_steps_are_timed_and_change_no_run(tmp_path):
    from tests.support.examples import quiet
    from train.loop import fit

    job = Job(RECIPE, "full", 7, 1, 1)
    fit(job, Run(tmp_path / "a"), stripes(320, 1), stripes(200, 2), quiet())
    speed = start.fastest(RECIPE, stripes(320, 1))
    assert 0 < speed.step_s < 5
    fit(job, Run(tmp_path / "b"), stripes(320, 1), stripes(200, 2), quiet())
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (420, "7 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_durations(seconds, text):
    assert start.duration(seconds) == text


def test_lines_to_type_are_whole(tmp_path):
    job = Job(RECIPE, "twin", 3, 20, 1)
    assert start.resume_command(job, None) == "python -m train mnist14k.notes --seed 3 --twin --resume"
    assert start.next_command(job, tmp_path / "a b") == (
        f"python -m train mnist14k.notes --seed 3 --runs '{tmp_path / 'a b'}'"
    )
    full = Job(RECIPE, "full", 3, 20, 1)
    assert start.next_command(full, None) == "python -m train export mnist14k.notes --as mnist14k.mine --seed 3"
