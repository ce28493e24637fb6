"""Training on a GPU (train/device.py): it matches training on the CPU, in parallel or alone, and can be resumed.

Most tests run the device code on the CPU, without CUDA graphs. Tests that need a GPU are marked `gpu`.
"""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.support.examples import RECIPE, quiet, stripes
from train import device as on_device
from train import networks, recipe
from train.device import Steps, Trainee, fit_on_device
from train.loop import TrainingJob, fit
from train.progress import Progress
from train.recipe import Constant, OneCycle
from train.runs import Run
from zoo.errors import RunError

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SGD = replace(
    RECIPE,
    network_options={},
    optimizer="SGD",
    optimizer_options=recipe.find("cifar93k.plus").optimizer_options,
    schedule=OneCycle(0.03),
    augment=(),
    ema=0.9,
)
ADAM = replace(RECIPE, network_options={}, augment=())


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: sums on several threads differ in their last bits, and training amplifies the difference."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def job(chosen=SGD, seed=7, **changes):
    return TrainingJob(
        **{"recipe": chosen, "kind": "full", "seed": seed, "epochs": 3, "threads": 1, "device": "cuda"} | changes
    )


def on_the_cpu(folder, *jobs, resume=False, progress=None, data=None):
    runs = [Run(folder / f"seed{each.seed}") for each in jobs]
    progresses = [progress or quiet() for _ in jobs]
    results = fit_on_device(jobs, runs, data or stripes(330, 1), stripes(200, 2), progresses, resume, device=CPU)
    return runs, results


def weights_of(run):
    return load_file(run.weights)


def max_difference(one, other):
    """Return the largest difference between weights or statistics, without the unused counters of steps."""
    floats = [key for key in one if one[key].is_floating_point()]
    return max((one[key].double() - other[key].double()).abs().max().item() for key in floats)


@pytest.mark.parametrize("chosen", [SGD, ADAM], ids=["sgd", "adam"])
def test_device_training_matches_cpu_training(tmp_path, chosen):
    """With five full batches and a smaller one per epoch, in the same order, weights agree within rounding."""
    (run,), (result,) = on_the_cpu(tmp_path / "device", job(chosen))
    whole = Run(tmp_path / "cpu")
    expected = fit(job(chosen, device="cpu"), whole, stripes(330, 1), stripes(200, 2), quiet())
    assert max_difference(weights_of(run), weights_of(whole)) < 5e-3
    assert result["accuracy"] == pytest.approx(expected["accuracy"], abs=0.02)
    assert result["loss"] == pytest.approx(expected["loss"], rel=0.02)
    for line, other in zip(run.metrics(), whole.metrics(), strict=True):
        assert line["train_loss"] == pytest.approx(other["train_loss"], rel=0.01)
        assert line["learning_rate"] == pytest.approx(other["learning_rate"])


def test_parallel_seeds_match_single_runs(tmp_path):
    together, _ = on_the_cpu(tmp_path / "together", *(job(seed=seed) for seed in (0, 1, 2)))
    alone, _ = on_the_cpu(tmp_path / "alone", job(seed=1))
    assert max_difference(weights_of(together[1]), weights_of(alone[0])) == 0
    assert max_difference(weights_of(together[0]), weights_of(together[1])) > 0.01


class Interrupted(Progress):
    """Raises KeyboardInterrupt after the first epoch has been written."""

    def epoch_done(self, line):
        if line["epoch"] == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("every_s", [0.0, 1e9], ids=["each epoch", "at the end"])
@pytest.mark.parametrize("chosen", [SGD, ADAM], ids=["sgd", "adam"])
def test_resumed_runs_have_the_same_weights(tmp_path, chosen, every_s, monkeypatch):
    monkeypatch.setattr(on_device, "CHECKPOINT_S", every_s)
    augmented = replace(chosen, augment=(("shift", {"pixels": 2}),))
    jobs = [job(augmented, seed=seed) for seed in (0, 1)]
    whole, _ = on_the_cpu(tmp_path / "whole", *jobs)
    with pytest.raises(KeyboardInterrupt):  # after the first run's epoch: the second is an epoch behind
        on_the_cpu(tmp_path / "broken", *jobs, progress=Interrupted("test", live=False))
    broken, _ = on_the_cpu(tmp_path / "broken", *jobs, resume=True)
    for one, other in zip(broken, whole, strict=True):
        assert max_difference(weights_of(one), weights_of(other)) == 0
        assert [line["epoch"] for line in one.metrics()] == [1, 2, 3]


def test_cpu_run_is_not_resumed_on_a_device(tmp_path):
    fit(job(device="cpu", epochs=1), Run(tmp_path / "seed7"), stripes(64, 1), stripes(64, 2), quiet())
    with pytest.raises(RunError, match="device was None, now 'cuda'"):
        on_the_cpu(tmp_path, job(epochs=1), resume=True)


def test_device_run_passes_the_export_check(tmp_path):
    (run,), _ = on_the_cpu(tmp_path, job(replace(SGD, epochs=1), epochs=1), data=stripes(64, 1))
    run.check_settings(replace(SGD, epochs=1).settings())  # as export does
    assert run.read("config")["device"] == "cuda"
    assert run.read("environment")["device"] == "cpu"


def test_average_of_too_few_steps_is_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(on_device, "MAX_AVERAGE_DROP", 0.05)
    monkeypatch.setattr(Trainee, "_average", lambda *_: None)  # it keeps the initial weights
    _, (result,) = on_the_cpu(tmp_path, job())
    assert result["average_check"]["last"] - result["average_check"]["average"] > 0.05
    assert "choose a smaller ema" in capsys.readouterr().err


def test_average_follows_the_cpu_formula(tmp_path):
    recipe_, data = replace(SGD, ema=0.95), stripes(640, 3)
    trainee = Trainee(job(recipe_), Run(tmp_path / "run"), data, CPU, False, False)
    with torch.random.fork_rng():
        from train.loop import Average

        other = Average(trainee.network, recipe_.ema)
    trainee.begin_epoch(0)
    for number in range(10):
        trainee.step(torch.tensor([number]), 64)
        other.update_parameters(trainee.network)
    assert int(trainee.average.n_averaged) == int(other.n_averaged) == 10
    states = (average.module.state_dict().values() for average in (trainee.average, other))
    for one, expected in zip(*states, strict=True):
        assert not one.is_floating_point() or torch.allclose(one, expected, atol=1e-5)


def test_auto_device_is_cuda_if_available(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_device.available("auto") == on_device.available("cpu") == "cpu"
    with pytest.raises(RunError, match=r"cannot use CUDA.*--device cpu"):
        on_device.available("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert on_device.available("auto") == "cuda"


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


def changes_of_one_step(folder, chosen, fit_one):
    """Train on one batch; return the change of all weights and statistics as one vector."""
    run, data = Run(folder), stripes(chosen.batch_size, 1)
    fit_one(job(chosen, epochs=1), run, data, stripes(200, 2))
    torch.manual_seed(7)  # as the runs do before they build the network
    before, after = networks.build(chosen).state_dict(), weights_of(run)
    return torch.cat([(after[key] - before[key]).flatten() for key in after if after[key].is_floating_point()])


@pytest.mark.parametrize("chosen", [replace(SGD, schedule=Constant(0.03)), ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    "device", [CPU, pytest.param(torch.device("cuda"), marks=[needs_gpu, pytest.mark.gpu])], ids=["cpu", "cuda"]
)
def test_one_step_matches_the_cpu_loop(tmp_path, chosen, device):
    """Training amplifies rounding, so that weights of two devices can be compared after one step only."""

    def fit_device(job, run, data, held_out):
        fit_on_device([job], [run], data, held_out, [quiet()], device=device)

    def fit_cpu(job, run, data, held_out):
        fit(replace(job, device="cpu"), run, data, held_out, quiet())

    actual = changes_of_one_step(tmp_path / "device", chosen, fit_device)
    expected = changes_of_one_step(tmp_path / "cpu", chosen, fit_cpu)
    assert expected.norm() > 0
    assert (actual - expected).norm() < 0.01 * expected.norm()


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("chosen", [SGD, ADAM], ids=["sgd", "adam"])
def test_graph_training_learns_what_cpu_training_learns(tmp_path, chosen):
    run, whole = Run(tmp_path / "gpu"), Run(tmp_path / "cpu")
    (result,) = fit_on_device([job(chosen)], [run], stripes(330, 1), stripes(200, 2), [quiet()])
    expected = fit(job(chosen, device="cpu"), whole, stripes(330, 1), stripes(200, 2), quiet())
    assert result["accuracy"] == pytest.approx(expected["accuracy"], abs=0.02)
    for line, other in zip(run.metrics(), whole.metrics(), strict=True):
        assert line["train_loss"] == pytest.approx(other["train_loss"], rel=0.2)


@needs_gpu
@pytest.mark.gpu
def test_capture_does_not_change_state(tmp_path):
    cuda = torch.device("cuda")
    part = stripes(330, 1)
    data = replace(part, images=part.images.to(cuda), labels=part.labels.to(cuda))
    trainees = [Trainee(job(SGD, seed=seed), Run(tmp_path / f"{seed}"), data, cuda, False, False) for seed in (0, 1)]
    for trainee in trainees:
        trainee.begin_epoch(0)
    before = [[value.clone() for value in trainee.network.state_dict().values()] for trainee in trainees]
    steps = Steps(trainees, cuda)
    for trainee, values in zip(trainees, before, strict=True):
        assert all(map(torch.equal, trainee.network.state_dict().values(), values))
        assert trainee.average is not None
        assert int(trainee.average.n_averaged) == 0
    steps.epoch()
    torch.cuda.synchronize()
    assert [int(trainee.average.n_averaged) for trainee in trainees if trainee.average] == [6, 6]


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run `python -m train mnist4k.plus` on synthetic data, with the CPU in place of a GPU."""
    from click.testing import CliRunner

    from train import data as splits
    from train.__main__ import main

    monkeypatch.setattr(splits, "training_data", lambda *_: stripes(130, 1))
    monkeypatch.setattr(splits, "held_out_data", lambda *_: stripes(50, 2))
    monkeypatch.setattr(
        on_device, "fit_on_device", lambda *args, **options: fit_on_device(*args, device=CPU, **options)
    )

    def run(*arguments):
        return CliRunner().invoke(main, ["mnist4k.plus", "--epochs", "1", "--runs", str(tmp_path), *arguments])

    return run


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_command_trains_a_range_of_seeds(command, tmp_path, monkeypatch, device):
    monkeypatch.setattr(on_device, "available", lambda _: device)
    done = command("--seeds", "1-2", "--device", device)
    assert done.exit_code == 0, done.output
    folders = sorted((tmp_path / "mnist4k.plus").iterdir())
    assert [folder.name for folder in folders] == ["seed1", "seed2"]
    for folder, seed in zip(folders, (1, 2), strict=True):
        assert Run(folder).read("result")["seed"] == seed
        assert Run(folder).read("config").get("device", "cpu") == device
        assert (folder / "curves.png").exists()
        assert f"mnist4k.plus seed {seed}: " in done.output
    again = command("--seeds", "1-2", "--device", device)
    assert again.exit_code == 1
    assert "already contains a run" in again.output
    assert command("--seeds", "1-2", "--device", device, "--resume").exit_code == 0


@pytest.mark.parametrize("seeds", ["4-0", "a", "1-", "-1", "1,2"])
def test_command_refuses_invalid_seed_ranges(command, seeds):
    done = command(f"--seeds={seeds}")
    assert done.exit_code == 2
    assert "Invalid --seeds" in done.output
