"""fit_on_device(): training runs on a GPU, several seeds side by side, each step of all of them one CUDA graph.

The data lie on the device. At the beginning of an epoch a run's images are shuffled and augmented there in `PIECES`
pieces; the steps of the epoch then only read them in order. Order, augmentation and initial weights come from the same
seeds as on a CPU. The order and the initial weights are the same as there, the augmentation draws other numbers, since
a GPU's generator is another.

A step of a small network is hundreds of kernels of a few microseconds, and launching them costs more than running them.
So the whole step, from reading the images to the average of the weights, is captured once as a CUDA graph and replayed;
what changes from step to step (position, learning rate, decay of the average) is read from memory of the device. Runs
side by side are branches of the same graph, each on a stream of its own.

Resuming: a run continues with the same order, random numbers, weights and optimizer state as one that was not
interrupted. To the bit they agree only where cuDNN picks the same kernels and these add in a fixed order, which it
does not promise (docs/decisions/0014-gpu.md).
"""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from train import augment, networks
from train.branches import fold, grow
from train.data import Part
from train.distill import Teacher, labels_alone
from train.evaluate import accuracy, logits, loss, network_input
from train.loop import Average, Job, epoch_seed, result_of
from train.precision import autocast, on_device
from train.progress import Progress
from train.runs import Run, RunError

PIECES = 8  # of an epoch that are augmented together: amounts that fade over a training change as often
WARM_UP = 3  # steps before a capture: libraries choose their kernels and allocate their workspaces in them
CHECKED = 5000  # training images on which the average is compared with the last weights
CHECKPOINT_S = 10.0  # between checkpoints, which are written after whole epochs
SUSPICIOUS = 0.05  # an average that is worse than the last weights by this accuracy is reported


def available(device: str) -> str:
    """The device that "auto" means here: "cuda" where torch can use it, else "cpu"; any other stays what it is.

    Raises:
        RunError: "cuda" where there is none.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise RunError(f"torch {torch.__version__} cannot use CUDA here: choose --device cpu.")
    return ("cuda" if has_cuda else "cpu") if device == "auto" else device


def fit_on_device(
    jobs: Sequence[Job], runs: Sequence[Run], data: Part, held_out: Part, progresses: Sequence[Progress],
    resume: bool = False, restart: bool = False, device: torch.device | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train side by side; returns and writes the results, in the order of the jobs.

    Epochs of a second or two are not worth a checkpoint each: one is written every `CHECKPOINT_S`, and after the last.

    Args:
        jobs: of the same recipe, kind and epochs, with different seeds; runs, progresses: one for each.
        data, held_out, resume, restart: as for `train.loop.fit`.
        device: "cuda" by default; the CPU takes the same steps without a graph.
    Raises:
        RunError, KeyboardInterrupt: as for `train.loop.fit`.
    """
    device = device or torch.device("cuda")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
    parts = [Part(part.name, part.images.to(device), part.labels.to(device)) for part in (data, held_out)]
    trainees = [Trainee(job, run, parts[0], device, resume, restart) for job, run in zip(jobs, runs, strict=True)]
    shown = dict(zip(trainees, progresses, strict=True))
    for done in sorted({trainee.done for trainee in trainees}):  # a run may be an epoch ahead of one beside it
        together = [trainee for trainee in trainees if trainee.done == done]
        if done < jobs[0].epochs:
            _train(together, {trainee: shown[trainee] for trainee in together}, parts[1], device)
    return [trainee.finish(parts[1], shown[trainee]) for trainee in trainees]


def _train(trainees: list["Trainee"], shown: dict["Trainee", Progress], held_out: Part, device: torch.device) -> None:
    steps, saved = Steps(trainees, device), time.perf_counter()
    for epoch in range(trainees[0].done, trainees[0].job.epochs):
        started = time.perf_counter()
        for trainee in trainees:
            trainee.begin_epoch(epoch)
        steps.epoch()
        lines = [trainee.end_epoch(epoch) for trainee in trainees]
        seconds = time.perf_counter() - started
        due = time.perf_counter() - saved > CHECKPOINT_S or epoch + 1 == trainees[0].job.epochs
        saved = time.perf_counter() if due else saved
        for trainee, line in zip(trainees, lines, strict=True):
            line |= {
                "seconds": round(seconds, 3),
                "images_per_s": round(len(trainee.data) / seconds, 1),
                "side_by_side": len(trainees),
            }
            trainee.save(epoch, line, held_out, due)
            shown[trainee].epoch_done(line)


class Trainee:
    """One run on the device: network, optimizer, average, and the epoch's images in the order of its steps.

    Everything a step reads or writes stays at one address, so that a CUDA graph can be replayed.
    """

    def __init__(self, job: Job, run: Run, data: Part, device: torch.device, resume: bool, restart: bool) -> None:
        recipe = job.recipe
        self.teacher = Teacher(recipe, job.kind, run.folder.parents[1]) if recipe.distill else None
        config = job.config() | ({"teacher_sha256": self.teacher.sha256} if self.teacher else {})
        self.recipe = on_device(recipe, device)
        torch.manual_seed(job.seed)
        network = networks.build(recipe)
        if recipe.branches:
            grow(network, recipe.branches)
        self.job, self.run, self.data, self.device = job, run, data, device
        self.network = network.to(device)
        self.rate = torch.zeros((), device=device)
        self.optimizer = _optimizer(self.recipe.optimizer, self.network, self.rate, recipe.optimizer_options)
        self.average = Average(self.network, recipe.ema).to(device) if recipe.ema else None
        self.measured: nn.Module = self.average.module if self.average else self.network
        self.objective = self.teacher.to(device) if self.teacher else labels_alone
        if resume:
            run.check_same(config)
            self.done = run.load_checkpoint(self.network, self.optimizer, self.average)
            _as_parameters(self.optimizer)
            self.optimizer.param_groups[0]["lr"] = self.rate
        else:
            run.begin(config, self.recipe.precision, restart, {"device": name(device)})
            run.save_checkpoint(0, self.network, self.optimizer, self.average)
            self.done = 0
        self.images, self.labels = data.images.clone(), data.labels.clone()  # a capture needs labels that are labels
        self.rates = torch.zeros(-(-len(data) // recipe.batch_size), device=device)
        self.seen_loss = torch.zeros((), dtype=torch.float64, device=device)
        self.right = torch.zeros((), dtype=torch.int64, device=device)

    def begin_epoch(self, epoch: int) -> None:
        """Shuffle and augment the images of an epoch, counted from 0, and set the learning rates of its steps."""
        job, size, n = self.job, self.recipe.batch_size, len(self.data)
        seed = epoch_seed(job.seed, epoch)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(self.device)
        generator = torch.Generator(self.device).manual_seed(seed)
        torch.manual_seed(seed + 1)  # dropout
        piece = -(-n // (PIECES * size)) * size
        for start in range(0, n, piece):
            rows, done = order[start : start + piece], (epoch + start / n) / job.epochs
            augmented = augment.apply(self.recipe.augment, self.data.images[rows], done, generator)
            self.images[start : start + piece].copy_(augmented)
        torch.index_select(self.data.labels, 0, order, out=self.labels)
        rates = [self.recipe.schedule(epoch + start / n, job.epochs) for start in range(0, n, size)]
        self.rates.copy_(torch.tensor(rates))
        self.seen_loss.zero_()
        self.right.zero_()
        self.network.train()

    def step(self, number: torch.Tensor, count: int) -> None:
        """Learn from `count` images of the epoch's step `number`, `(1,)` int64; nothing here waits for the device."""
        rows = number * self.recipe.batch_size + torch.arange(count, device=self.device)
        images, labels = self.images.index_select(0, rows), self.labels.index_select(0, rows)
        with autocast(self.recipe.precision, self.device):
            scores = self.network(network_input(images, self.recipe))
        batch_loss = self.objective(scores.float(), labels, images)
        self.rate.copy_(self.rates.index_select(0, number)[0])
        self.optimizer.zero_grad(set_to_none=True)
        batch_loss.backward()
        self.optimizer.step()
        if self.average:
            self._average(self.average)
        self.seen_loss.add_(batch_loss.detach().double() * count)
        self.right.add_((scores.detach().argmax(1) == labels).sum())

    @torch.no_grad()
    def _average(self, average: Average) -> None:
        """What `Average.update_parameters` does, with the number of steps read from the device."""
        steps = average.n_averaged
        decay = ((1.0 + steps) / (10.0 + steps)).clamp(max=self.recipe.ema)
        share = torch.where(steps > 0, 1 - decay, torch.ones_like(decay))
        pairs = list(zip(_state(average.module), _state(self.network), strict=True))
        kept, new = zip(*((old, value) for old, value in pairs if old.is_floating_point()), strict=True)
        away = torch._foreach_sub(new, kept)
        torch._foreach_mul_(away, share)
        torch._foreach_add_(kept, away)
        for old, value in pairs:
            if not old.is_floating_point():
                old.copy_(value)
        steps.add_(1)

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """The epoch's line of metrics.jsonl, without its time; waits for the device."""
        return {
            "epoch": epoch + 1,
            "learning_rate": self.rates[-1].item(),
            "train_loss": self.seen_loss.item() / len(self.data),
            "train_accuracy": int(self.right) / len(self.data),
        }

    def save(self, epoch: int, line: dict[str, Any], held_out: Part, checkpoint: bool) -> None:
        """Measure a twin, and write the epoch's line and, if it is due, a checkpoint."""
        if self.job.kind == "twin":
            scores = logits(self.measured, held_out.images, self.recipe)
            line["validation_loss"] = loss(scores, held_out.labels)
            line["validation_accuracy"] = accuracy(scores, held_out.labels)
        self.run.add_metrics(line)
        if checkpoint:
            self.run.save_checkpoint(epoch + 1, self.network, self.optimizer, self.average)
        self.done = epoch + 1

    def finish(self, held_out: Part, progress: Progress) -> dict[str, Any]:
        """Measure on the held-out part, and write the weights and the result."""
        job, measured = self.job, copy.deepcopy(self.measured).cpu()
        if self.recipe.branches:
            measured = fold(measured)
        scores = logits(copy.deepcopy(measured).to(self.device), held_out.images, self.recipe)
        result = result_of(job, self.run, held_out, scores)
        if self.average:
            result["average_check"] = self._check_average(progress)
        self.run.finish(measured, result)
        return result

    def _check_average(self, progress: Progress) -> dict[str, float]:
        """Accuracy on training images of the average and of the last weights: an average of too few steps is worse."""
        images, labels = self.data.images[:CHECKED], self.data.labels[:CHECKED]
        reached = {
            name: accuracy(logits(network, images, self.recipe), labels)
            for name, network in (("average", self.measured), ("last", self.network))
        }
        if reached["last"] - reached["average"] > SUSPICIOUS:
            progress.note(
                f"the average of the weights reads {reached['average']:.1%} of the training images and the last "
                f"weights {reached['last']:.1%}: train for more epochs, or choose a smaller ema."
            )
        return reached


class Steps:
    """The steps of an epoch for runs side by side: replays of CUDA graphs on a GPU, plain calls elsewhere."""

    def __init__(self, trainees: Sequence[Trainee], device: torch.device) -> None:
        """On a GPU this captures a graph of a whole batch and one of the smaller last batch of an epoch."""
        self.trainees, self.device = trainees, device
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        size, n = trainees[0].recipe.batch_size, len(trainees[0].data)
        self.whole, self.rest = n // size, n % size
        self._streams = [torch.cuda.Stream(device) for _ in trainees] if device.type == "cuda" else []
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._step = self._rest = self._nothing
        torch.backends.cudnn.benchmark = True
        if self.whole:
            self._step = self._captured(size)
        torch.backends.cudnn.benchmark = not self.whole  # trying kernels for one step an epoch costs more than it saves
        if self.rest:
            self._rest = self._captured(self.rest)
        torch.backends.cudnn.benchmark = False

    def epoch(self) -> None:
        """Take all steps of an epoch; each trainee's `begin_epoch` comes first. Does not wait for the device."""
        self.number.zero_()
        for _ in range(self.whole):
            self._step()
        self._rest()

    @staticmethod
    def _nothing() -> None:
        pass

    def _together(self, count: int) -> None:
        """One step of every trainee, each on its stream."""
        if not self._streams:
            for trainee in self.trainees:
                trainee.step(self.number, count)
        else:
            main = torch.cuda.current_stream()
            for trainee, stream in zip(self.trainees, self._streams, strict=True):
                stream.wait_stream(main)
                with torch.cuda.stream(stream):
                    trainee.step(self.number, count)
            for stream in self._streams:
                main.wait_stream(stream)
        self.number.add_(1)

    def _captured(self, count: int) -> Callable[[], None]:
        """A step of `count` images as a call; capturing leaves everything as it was."""
        if self.device.type != "cuda":
            return lambda: self._together(count)
        with _kept(self.trainees), _on_a_side_stream():
            for _ in range(WARM_UP):
                self.number.zero_()
                self._together(count)
        graph = torch.cuda.CUDAGraph()
        pool = self._graphs[0].pool() if self._graphs else None
        for trainee in self.trainees:
            trainee.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, pool=pool):
            self._together(count)
        self._graphs.append(graph)
        return graph.replay


class _kept:
    """Puts weights, statistics, averages and optimizer state back to what they were; new optimizer state to zero."""

    def __init__(self, trainees: Iterable[Trainee]) -> None:
        self._trainees = list(trainees)

    def __enter__(self) -> None:
        self._before = [{id(tensor): tensor.detach().clone() for tensor in _all(t)} for t in self._trainees]
        for trainee in self._trainees:
            trainee.network.train()

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for trainee, before in zip(self._trainees, self._before, strict=True):
                for tensor in _all(trainee):
                    if id(tensor) in before:
                        tensor.copy_(before[id(tensor)])
                    else:
                        tensor.zero_()


class _on_a_side_stream:
    """Warming up on a stream that is not the default one, as a capture asks for."""

    def __enter__(self) -> None:
        self._main, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(self._main)
        self._side, self._context = side, torch.cuda.stream(side)
        self._context.__enter__()

    def __exit__(self, *given: object) -> None:
        self._context.__exit__(*given)
        self._main.wait_stream(self._side)
        torch.cuda.synchronize()


def _state(network: nn.Module) -> list[torch.Tensor]:
    return [*(parameter.data for parameter in network.parameters()), *network.buffers()]


def _all(trainee: Trainee) -> Iterable[torch.Tensor]:
    """Every tensor that a step changes and that outlives it."""
    yield from trainee.network.parameters()
    yield from trainee.network.buffers()
    if trainee.average:
        yield from trainee.average.parameters()
        yield from trainee.average.buffers()
    for state in trainee.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))
    yield from (trainee.seen_loss, trainee.right)


def _optimizer(kind: str, network: nn.Module, rate: torch.Tensor, options: dict[str, Any]) -> torch.optim.Optimizer:
    """An optimizer of torch whose learning rate is read from the device, in one kernel for all weights."""
    capturable = {"capturable": True} if kind in ("Adam", "AdamW") and rate.is_cuda else {}
    return getattr(torch.optim, kind)(network.parameters(), lr=rate, fused=True, **capturable, **options)


def _as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded optimizer state the memory order of the weights, which fused kernels need."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter).copy_(value)


def name(device: torch.device) -> str:
    """What a run's environment calls a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
