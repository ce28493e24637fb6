"""Several processes that share each batch end with the weights of one process, within rounding (gloo, on CPUs).

Networks and images are float64 here: in float32, rounding alone can change which value is the largest of a pool, and
training amplifies that.
"""

import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from tests.support.examples import RECIPE, stripes
from tests.train.test_device import ADAM, SGD, max_difference, weights_of
from train import device as device_module
from train import loop, networks, recipe
from train.distill import cross_entropy
from train.evaluate import network_input
from train.loop import TrainingJob
from train.processes import Processes
from train.progress import Progress
from train.runs import Run
from zoo.errors import RunError

IMAGES = 131  # two batches of 64, and a smaller one that cannot be halved
SHIFTED = {"augment": (("shift", {"pixels": 2}),)}
TRAININGS = {  # name: (recipe, the device whose code is used)
    "sgd": (replace(SGD, **SHIFTED), "cpu"),
    "adam": (ADAM, "cpu"),
    "dropout": (replace(RECIPE, network_options={"dropout": 0.1}), "cpu"),
    "gpu": (SGD, "cuda"),
}


class Interrupted(Progress):
    def epoch_done(self, line):
        raise KeyboardInterrupt


def train(name, run, processes, progress=Progress, resume=False):
    """One training of two epochs, in float64. The code for GPUs runs with gloo and the CPU in their places."""
    chosen, device = TRAININGS[name]
    job = TrainingJob(replace(chosen, precision="float32"), "full", 7, 2, 1, device, processes.count)
    arguments = stripes(IMAGES, 1), stripes(50, 2)
    bar, build = progress("", live=False, quiet=True), networks.build
    torch.set_num_threads(1)
    with (
        patch.object(networks, "build", lambda recipe: build(recipe).double()),
        patch.object(loop, "network_input", lambda *args: network_input(*args).double()),
        patch.object(loop, "logits", lambda *_: torch.zeros(50, 10)),
        patch.object(device_module, "network_input", lambda *args: network_input(*args).double()),
        patch.object(device_module, "logits", lambda network, images, _: torch.zeros(len(images), 10)),
        suppress(KeyboardInterrupt),
    ):
        if device == "cpu":
            loop.fit(job, run, *arguments, bar, resume, processes=processes)
        else:
            cpu = torch.device("cpu")
            device_module.fit_on_device([job], [run], *arguments, [bar], resume, device=cpu, processes=processes)


def train_all(folder):
    """In a process of torchrun: every training, and one that is interrupted after an epoch and resumed."""
    processes = Processes.of_torchrun()
    with processes.connected("cpu"):
        for name in TRAININGS:
            train(name, Run(Path(folder, name)), processes)
        broken = Run(Path(folder, "broken"))
        train("sgd", broken, processes, Interrupted)
        train("sgd", broken, processes, resume=True)


def run_command(folder):
    """In a process of torchrun: the command `python -m train`, with little data."""
    from train import data
    from train.__main__ import main

    data.training_data = lambda *_: stripes(96, 1)
    data.held_out_data = lambda *_: stripes(50, 2)
    main(["mnist4k.plus", "--device", "cpu", "--epochs", "1", "--runs", folder], standalone_mode=False)


def torchrun(function, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    done = subprocess.run([*command, function.__name__, folder], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The folder with the runs of two processes."""
    folder = tmp_path_factory.mktemp("two")
    torchrun(train_all, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TRAININGS))
def test_two_processes_match_one(of_two, tmp_path, name):
    one, two = Run(tmp_path / name), Run(of_two / name)
    train(name, one, Processes.alone())
    assert 0 < max_difference(weights_of(one), weights_of(two)) < 1e-5
    assert two.read("config")["processes"] == 2
    assert len(two.metrics()) == 2  # written by one process
    for line, other in zip(two.metrics(), one.metrics(), strict=True):
        assert line["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert line["train_accuracy"] == other["train_accuracy"]


@pytest.mark.slow
def test_resumed_run_of_two_processes_has_the_same_weights(of_two):
    assert max_difference(weights_of(Run(of_two / "sgd")), weights_of(Run(of_two / "broken"))) == 0


@pytest.mark.slow
def test_command_under_torchrun_speaks_once(tmp_path):
    done = torchrun(run_command, tmp_path)
    assert done.stdout.count("mnist4k.plus seed 0: accuracy") == 1
    assert done.stderr.count("Run folder: ") == 1
    assert done.stderr.count("epoch 1 ") == 1
    run = Run(tmp_path / "mnist4k.plus" / "seed0")
    with pytest.raises(RunError, match="processes was 2, now None"):  # one process does not resume it
        run.check_config(TrainingJob(recipe.find("mnist4k.plus"), "full", 0, 1, 1).config())


def test_process_without_images_adds_nothing():
    """The last batch may have one image, for two processes."""
    scores = torch.zeros(0, 10, requires_grad=True)
    part = Processes(0, 2).loss(cross_entropy, scores, torch.zeros(0, dtype=torch.int64), torch.zeros(0), 1)
    part.backward()
    assert part.item() == 0


def test_shares_cover_each_batch_once():
    for count in (1, 2, 3, 7):
        for n in (0, 1, 2, 64, 65):
            rows = [row for rank in range(count) for row in range(n)[Processes(rank, count).share(n)]]
            assert rows == list(range(n))


if __name__ == "__main__":
    {"train_all": train_all, "run_command": run_command}[sys.argv[1]](sys.argv[2])
