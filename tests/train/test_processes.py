"""Several processes that share each batch end with the weights of one process, within rounding (gloo, on CPUs)."""

import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.examples import RECIPE, stripes
from tests.train.test_device import ADAM, SGD, max_difference, weights_of
from train import recipe
from train.device import fit_on_device
from train.distill import cross_entropy
from train.loop import TrainingJob, fit
from train.processes import Processes
from train.progress import Progress
from train.runs import Run
from zoo.errors import RunError

pytestmark = pytest.mark.slow

RECIPES = {
    "sgd": replace(SGD, augment=(("shift", {"pixels": 2}),)),
    "adam": ADAM,
    "dropout": replace(RECIPE, network_options={"dropout": 0.1}, augment=()),
}
IMAGES = 131  # two batches of 64, and a smaller one that cannot be halved


class Interrupted(Progress):
    def epoch_done(self, line):
        raise KeyboardInterrupt


def train(name, folder, device, epochs, how=""):
    """One training, alone or as one of the processes of torchrun."""
    torch.set_num_threads(1)
    processes = Processes.of_torchrun()
    chosen = replace(RECIPES[name], precision="float32")  # rounding to bfloat16 is 10,000 times as coarse
    job = TrainingJob(chosen, "full", 7, epochs, 1, device, processes.count)
    data, held_out, run = stripes(IMAGES, 1), stripes(50, 2), Run(Path(folder))
    progress = (Interrupted if how == "interrupt" else Progress)("", live=False, quiet=True)
    resume = how == "resume"
    with processes.connected("cpu"), suppress(KeyboardInterrupt):
        if device == "cpu":
            fit(job, run, data, held_out, progress, resume, processes=processes)
        else:  # the code for GPUs, with gloo and the CPU in their places
            cpu = torch.device("cpu")
            fit_on_device([job], [run], data, held_out, [progress], resume, device=cpu, processes=processes)


def torchrun(count, *arguments, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=280, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize(("name", "device"), [("sgd", "cpu"), ("adam", "cpu"), ("dropout", "cpu"), ("sgd", "cuda")])
def test_two_processes_match_one(tmp_path, name, device):
    train(name, tmp_path / "one", device, 2)
    torchrun(2, __file__, name, tmp_path / "two", device, 2)
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    assert 0 < max_difference(weights_of(one), weights_of(two)) < 1e-3
    assert two.read("config")["processes"] == 2
    assert len(two.metrics()) == 2  # of one process only
    for line, other in zip(two.metrics(), one.metrics(), strict=True):
        assert line["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
        assert line["train_accuracy"] == pytest.approx(other["train_accuracy"], abs=2 / IMAGES)


def test_command_under_torchrun_speaks_once(tmp_path):
    done = torchrun(2, __file__, "command", tmp_path)
    assert done.stdout.count("mnist4k.plus seed 0: accuracy") == 1
    assert done.stderr.count("Run folder: ") == 1
    assert done.stderr.count("epoch 1 ") == 1
    run = Run(tmp_path / "mnist4k.plus" / "seed0")
    with pytest.raises(RunError, match="processes was 2, now None"):  # not resumed by one process
        run.check_config(TrainingJob(recipe.find("mnist4k.plus"), "full", 0, 1, 1).config())


def test_interrupted_run_of_two_processes_is_resumed_to_the_bit(tmp_path):
    torchrun(2, __file__, "sgd", tmp_path / "whole", "cpu", 2)
    torchrun(2, __file__, "sgd", tmp_path / "broken", "cpu", 2, "interrupt")
    assert len(Run(tmp_path / "broken").metrics()) == 1
    torchrun(2, __file__, "sgd", tmp_path / "broken", "cpu", 2, "resume")
    assert max_difference(weights_of(Run(tmp_path / "whole")), weights_of(Run(tmp_path / "broken"))) == 0


def command(folder):
    """The command of `python -m train`, with a small part of the data."""
    from train import data
    from train.__main__ import main

    data.training_data = lambda *_: stripes(96, 1)
    data.held_out_data = lambda *_: stripes(50, 2)
    main(["mnist4k.plus", "--device", "cpu", "--epochs", "1", "--runs", folder], standalone_mode=False)


def test_process_without_images_adds_nothing():
    """A last batch of one image, for two processes."""
    scores = torch.zeros(0, 10, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.int64)
    part = Processes(0, 2).loss(cross_entropy, scores, labels, torch.zeros(0, 28, 28, 1), 1)
    part.backward()
    assert part.item() == 0


def test_shares_cover_each_batch_once():
    for count in (1, 2, 3, 7):
        for n in (0, 1, 2, 64, 65):
            rows = [row for rank in range(count) for row in range(n)[Processes(rank, count).share(n)]]
            assert rows == list(range(n))


if __name__ == "__main__":
    command(sys.argv[2]) if sys.argv[1] == "command" else train(*sys.argv[1:4], int(sys.argv[4]), *sys.argv[5:])
