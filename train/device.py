"""fit_on_device(): training on a GPU, several seeds in parallel, with each step of all runs as one CUDA graph.

The data are on the device. At the start of an epoch a run's images are shuffled and augmented there in `PIECES` pieces;
the steps of the epoch then read them in order. Order, augmentation and initial weights use the same seeds as on a CPU.
Order and initial weights are identical to a CPU run; the augmentation differs because the GPU has another generator.

A step of a small network consists of hundreds of kernels of a few microseconds, and launching them costs more than
running them. The whole step, from reading the images to the average of the weights, is therefore captured once as a
CUDA graph and replayed. Values that change between steps (position, learning rate, decay of the average) are read from
device memory. Parallel runs are branches of the same graph, each on its own stream.

A resumed run has the same order, random numbers, weights and optimizer state as an uninterrupted one. The results are
identical to the bit only if cuDNN chooses the same kernels and these add in a fixed order, which cuDNN does not
guarantee (docs/decisions/0014-gpu.md).
"""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from train import augment, networks
from train.data import Split
from train.distill import Teacher, cross_entropy
from train.evaluate import accuracy, logits, loss, network_input
from train.loop import Average, TrainingJob, epoch_seed, result_of
from train.precision import autocast, on_device
from train.processes import Processes
from train.progress import Progress
from train.runs import Run
from zoo.errors import RunError

PIECES = 8  # of an epoch, each augmented as a whole; the strength of a fading augmentation changes between pieces
WARM_UP_STEPS = 3  # before a capture, in which libraries choose kernels and allocate workspaces
AVERAGE_CHECK_IMAGES = 5000  # training images on which the average is compared with the last weights
CHECKPOINT_S = 10.0  # minimum time between checkpoints, which are written after complete epochs
MAX_AVERAGE_DROP = 0.05  # an average whose accuracy is lower than that of the last weights by more is reported


def available(device: str) -> str:
    """Resolve "auto" to "cuda" if torch can use it, otherwise to "cpu"; return other names unchanged.

    Raises:
        RunError: the device is "cuda" and torch cannot use CUDA.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise RunError(f"torch {torch.__version__} cannot use CUDA on this machine. Use --device cpu.")
    return ("cuda" if has_cuda else "cpu") if device == "auto" else device


def fit_on_device(
    jobs: Sequence[TrainingJob],
    runs: Sequence[Run],
    data: Split,
    held_out: Split,
    progresses: Sequence[Progress],
    resume: bool = False,
    restart: bool = False,
    device: torch.device | None = None,
    processes: Processes | None = None,
) -> list[dict[str, Any]]:
    """Train in parallel; write the results and return them in the order of the jobs.

    Because an epoch may take only a second or two, a checkpoint is written at most every `CHECKPOINT_S` seconds, and
    after the last epoch.

    Args:
        jobs: jobs with the same recipe, kind and epochs, and different seeds.
        runs, progresses: one per job.
        data, held_out, resume, restart: as for `train.loop.fit`.
        device: "cuda" by default; the CPU takes the same steps without a graph.
        processes: those that share each batch; then the jobs run one after the other.
    Raises:
        RunError, KeyboardInterrupt: as for `train.loop.fit`.
    """
    device, processes = device or torch.device("cuda"), processes or Processes.alone()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
    splits = [Split(split.name, split.images.to(device), split.labels.to(device)) for split in (data, held_out)]
    trainees = [
        Trainee(job, run, splits[0], device, resume, restart, processes) for job, run in zip(jobs, runs, strict=True)
    ]
    progress_of = dict(zip(trainees, progresses, strict=True))
    for group in _groups(trainees, processes):
        if group[0].done < jobs[0].epochs:
            _train(group, progress_of, splits[1], device)
    return [trainee.finish(splits[1], progress_of[trainee]) for trainee in trainees]


def _groups(trainees: list["Trainee"], processes: Processes) -> list[list["Trainee"]]:
    """Runs that take their steps together: after an interruption, one run may be an epoch ahead."""
    if processes.count > 1:  # sums over processes must not run on several streams at once
        return [[trainee] for trainee in trainees]
    return [[trainee for trainee in trainees if trainee.done == done] for done in sorted({t.done for t in trainees})]


def _train(
    trainees: list["Trainee"], progress_of: dict["Trainee", Progress], held_out: Split, device: torch.device
) -> None:
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
            progress_of[trainee].epoch_done(line)


class Trainee:
    """One run on the device: network, optimizer, average, and the epoch's images in the order of its steps.

    All tensors that a step reads or writes keep their addresses, so that a CUDA graph can be replayed.
    """

    def __init__(
        self,
        job: TrainingJob,
        run: Run,
        data: Split,
        device: torch.device,
        resume: bool,
        restart: bool,
        processes: Processes | None = None,
    ) -> None:
        recipe = job.recipe
        self.processes = processes or Processes.alone()
        run = self.processes.run(run)
        self.teacher = Teacher(recipe, job.kind, run.folder.parents[1]) if recipe.distill else None
        config = job.config() | ({"teacher_sha256": self.teacher.sha256} if self.teacher else {})
        self.recipe = on_device(recipe, device)
        torch.manual_seed(job.seed)
        network = networks.build(recipe)
        self.processes.prepare(network)
        self.job, self.run, self.data, self.device = job, run, data, device
        self.network = network.to(device)
        self.rate = torch.zeros((), device=device)
        self.optimizer = _optimizer(self.recipe.optimizer, self.network, self.rate, recipe.optimizer_options)
        self.average = Average(self.network, recipe.ema).to(device) if recipe.ema else None
        self.measured: nn.Module = self.average.module if self.average else self.network
        self.objective = self.teacher.to(device) if self.teacher else cross_entropy
        if resume:
            run.check_config(config)
            self.done = run.load_checkpoint(self.network, self.optimizer, self.average)
            _match_memory_format(self.optimizer)
            self.optimizer.param_groups[0]["lr"] = self.rate
        else:
            run.begin(config, self.recipe.precision, restart, {"device": device_name(device)})
            run.save_checkpoint(0, self.network, self.optimizer, self.average)
            self.done = 0
        self.processes.wait()
        self.images, self.labels = data.images.clone(), data.labels.clone()  # valid labels, also for the capture
        self.rates = torch.zeros(-(-len(data) // recipe.batch_size), device=device)
        self.seen_loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)

    def begin_epoch(self, epoch: int) -> None:
        """Shuffle and augment the images of an epoch (counted from 0), and set the learning rates of its steps."""
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
        self.correct.zero_()
        self.network.train()

    def step(self, number: torch.Tensor, count: int) -> None:
        """Train on `count` images of the epoch's step `number`, `(1,)` int64, without waiting for the device."""
        share = self.processes.share(count)
        rows = number * self.recipe.batch_size + torch.arange(share.start, share.stop, device=self.device)
        images, labels = self.images.index_select(0, rows), self.labels.index_select(0, rows)
        with autocast(self.recipe.precision, self.device):
            scores = self.network(network_input(images, self.recipe))
        batch_loss = self.processes.loss(self.objective, scores.float(), labels, images, count)
        self.rate.copy_(self.rates.index_select(0, number)[0])
        self.optimizer.zero_grad(set_to_none=True)
        batch_loss.backward()
        self.processes.sum_gradients(self.network)
        self.optimizer.step()
        if self.average:
            self._average(self.average)
        self.seen_loss.add_(batch_loss.detach().double() * count)
        self.correct.add_((scores.detach().argmax(1) == labels).sum())

    @torch.no_grad()
    def _average(self, average: Average) -> None:
        """Do the same as `Average.update_parameters`, with the number of steps read from device memory."""
        steps = average.n_averaged
        decay = ((1.0 + steps) / (10.0 + steps)).clamp(max=self.recipe.ema)
        share = torch.where(steps > 0, 1 - decay, torch.ones_like(decay))
        pairs = list(zip(_state(average.module), _state(self.network), strict=True))
        averages, values = zip(*((old, value) for old, value in pairs if old.is_floating_point()), strict=True)
        change = torch._foreach_sub(values, averages)
        torch._foreach_mul_(change, share)
        torch._foreach_add_(averages, change)
        for old, value in pairs:
            if not old.is_floating_point():
                old.copy_(value)
        steps.add_(1)

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """Wait for the device; return the epoch's line of metrics.jsonl without its time."""
        loss_sum, correct = self.processes.total(self.seen_loss.item(), int(self.correct))
        return {
            "epoch": epoch + 1,
            "learning_rate": self.rates[-1].item(),
            "train_loss": loss_sum / len(self.data),
            "train_accuracy": correct / len(self.data),
        }

    def save(self, epoch: int, line: dict[str, Any], held_out: Split, checkpoint: bool) -> None:
        """Measure a calibration run, write the epoch's line of metrics.jsonl and, if requested, a checkpoint."""
        if self.job.kind == "calibration":
            scores = logits(self.measured, held_out.images, self.recipe)
            line["validation_loss"] = loss(scores, held_out.labels)
            line["validation_accuracy"] = accuracy(scores, held_out.labels)
        self.run.add_metrics(line)
        if checkpoint:
            self.run.save_checkpoint(epoch + 1, self.network, self.optimizer, self.average)
        self.done = epoch + 1

    def finish(self, held_out: Split, progress: Progress) -> dict[str, Any]:
        """Measure on the held-out split, and write the weights and the result."""
        result = result_of(self.job, self.run, held_out, logits(self.measured, held_out.images, self.recipe))
        if self.average:
            result["average_check"] = self._check_average(progress)
        self.run.finish(copy.deepcopy(self.measured).cpu(), result)
        return result

    def _check_average(self, progress: Progress) -> dict[str, float]:
        """Compare the accuracy of the average and the last weights: after too few steps the average is worse."""
        images, labels = self.data.images[:AVERAGE_CHECK_IMAGES], self.data.labels[:AVERAGE_CHECK_IMAGES]
        accuracies = {
            name: accuracy(logits(network, images, self.recipe), labels)
            for name, network in (("average", self.measured), ("last", self.network))
        }
        if accuracies["last"] - accuracies["average"] > MAX_AVERAGE_DROP:
            progress.note(
                f"the averaged weights have a training accuracy of {accuracies['average']:.1%}, the last weights "
                f"{accuracies['last']:.1%}. Train for more epochs, or choose a smaller ema."
            )
        return accuracies


class Steps:
    """The steps of an epoch for parallel runs: replays of CUDA graphs on a GPU, plain calls on a CPU."""

    def __init__(self, trainees: Sequence[Trainee], device: torch.device) -> None:
        """Prepare the steps. On a GPU, capture one graph for a full batch and one for an epoch's smaller last batch."""
        self.trainees, self.device = trainees, device
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        size, n = trainees[0].recipe.batch_size, len(trainees[0].data)
        self.full_batches, self.rest = n // size, n % size
        self._streams = [torch.cuda.Stream(device) for _ in trainees] if device.type == "cuda" else []
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._full_step: Callable[[], None] = self._no_step
        self._rest_step: Callable[[], None] = self._no_step
        torch.backends.cudnn.benchmark = True
        if self.full_batches:
            self._full_step = self._captured(size)
        torch.backends.cudnn.benchmark = not self.full_batches  # not worth it for one step per epoch
        if self.rest:
            self._rest_step = self._captured(self.rest)
        torch.backends.cudnn.benchmark = False

    def epoch(self) -> None:
        """Take all steps of an epoch without waiting for the device. Call each trainee's `begin_epoch` first."""
        self.number.zero_()
        for _ in range(self.full_batches):
            self._full_step()
        self._rest_step()

    @staticmethod
    def _no_step() -> None:
        pass

    def _step_all(self, count: int) -> None:
        """Take one step of every trainee, each on its own stream."""
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
        """Return a call that takes a step of `count` images. Capturing does not change the trainees' state."""
        if self.device.type != "cuda":
            return lambda: self._step_all(count)
        with _restored_state(self.trainees), _side_stream():
            for _ in range(WARM_UP_STEPS):
                self.number.zero_()
                self._step_all(count)
        graph = torch.cuda.CUDAGraph()
        pool = self._graphs[0].pool() if self._graphs else None
        for trainee in self.trainees:
            trainee.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, pool=pool):
            self._step_all(count)
        self._graphs.append(graph)
        return graph.replay


class _restored_state:
    """Restores weights, statistics, averages and optimizer state at exit; new optimizer state becomes zero."""

    def __init__(self, trainees: Iterable[Trainee]) -> None:
        self._trainees = list(trainees)

    def __enter__(self) -> None:
        self._before = [{id(tensor): tensor.detach().clone() for tensor in _state_tensors(t)} for t in self._trainees]
        for trainee in self._trainees:
            trainee.network.train()

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for trainee, before in zip(self._trainees, self._before, strict=True):
                for tensor in _state_tensors(trainee):
                    if id(tensor) in before:
                        tensor.copy_(before[id(tensor)])
                    else:
                        tensor.zero_()


class _side_stream:
    """Runs the block on a stream other than the default one, as the warm-up of a capture requires."""

    def __enter__(self) -> None:
        self._main, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(self._main)
        self._side, self._context = side, torch.cuda.stream(side)
        self._context.__enter__()

    def __exit__(self, *exc_info: Any) -> None:
        self._context.__exit__(*exc_info)
        self._main.wait_stream(self._side)
        torch.cuda.synchronize()


def _state(network: nn.Module) -> list[torch.Tensor]:
    return [*(parameter.data for parameter in network.parameters()), *network.buffers()]


def _state_tensors(trainee: Trainee) -> Iterable[torch.Tensor]:
    """Yield every tensor that a step changes and a later step reads."""
    yield from trainee.network.parameters()
    yield from trainee.network.buffers()
    if trainee.average:
        yield from trainee.average.parameters()
        yield from trainee.average.buffers()
    for state in trainee.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))
    yield from (trainee.seen_loss, trainee.correct)


def _optimizer(kind: str, network: nn.Module, rate: torch.Tensor, options: dict[str, Any]) -> torch.optim.Optimizer:
    """Return a fused torch optimizer that reads its learning rate from device memory."""
    capturable = {"capturable": True} if kind in ("Adam", "AdamW") and rate.is_cuda else {}
    optimizer: torch.optim.Optimizer = getattr(torch.optim, kind)(
        network.parameters(), lr=rate, fused=True, **capturable, **options
    )
    return optimizer


def _match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded optimizer state the memory format of the weights, which fused kernels require."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter).copy_(value)


def device_name(device: torch.device) -> str:
    """Return the name of a device for the run's environment."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
