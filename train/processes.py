"""One training in several processes: `torchrun --nproc-per-node N -m train RECIPE`.

Every process has the whole network and computes its part of each batch. What depends on the whole batch is shared: the
mean and variance of batch normalisation, and the sum of the gradients. So the weights are those that one process gets
with the same batches, up to the order in which floating-point numbers are added. Order, augmentation and dropout are
drawn for the whole batch in every process, because one process draws them so.

The processes communicate through gloo on CPUs, and through nccl on GPUs (not run yet). Only the first one writes files.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from train.distill import Objective
from train.networks import Dropout
from train.runs import Run


class Processes:
    """The processes that share each batch.

    Attributes:
        rank: the number of this process, from 0.
        count: how many there are.
    """

    def __init__(self, rank: int, count: int, local_rank: int = 0) -> None:
        """Args:
        local_rank: the number of this process on this machine, and of its GPU.
        """
        self.rank, self.count, self.local_rank = rank, count, local_rank

    @classmethod
    def alone(cls) -> "Processes":
        return cls(0, 1)

    @classmethod
    def of_torchrun(cls) -> "Processes":
        """Those that torchrun started; this process alone if it was started otherwise."""
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
        return cls(*(int(os.environ.get(name, default)) for name, default in names.items()))

    @contextmanager
    def connected(self, device: str) -> Iterator[None]:
        """Connect the processes, with gloo on "cpu" and nccl on "cuda"."""
        if self.count == 1:
            yield
            return
        if device == "cuda":
            torch.cuda.set_device(self.local_rank)
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
        try:
            yield
        finally:
            dist.destroy_process_group()

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def run(self, run: Run) -> Run:
        """The run for this process: only the first one writes its files."""
        return run if self.rank == 0 else _ReadOnlyRun(run.folder)

    def share(self, n: int) -> slice:
        """This process's part of a batch of `n` images."""
        return slice(self.rank * n // self.count, (self.rank + 1) * n // self.count)

    def prepare(self, network: nn.Module) -> None:
        """Make the layers that depend on the whole batch see it. Names and weights of the layers stay."""
        if self.count == 1:
            return
        for module in network.modules():
            if type(module) in _SHARED:
                module.__class__ = _SHARED[type(module)]
                module.processes = self  # type: ignore[assignment]

    def loss(
        self, objective: Objective, scores: torch.Tensor, labels: torch.Tensor, images: torch.Tensor, n: int
    ) -> torch.Tensor:
        """This process's part of the mean loss of a batch of `n` images: the parts add up to it."""
        if self.count == 1:
            return objective(scores, labels, images)
        if not len(labels):  # a last batch that is smaller than the number of processes
            return scores.sum() * 0.0
        return objective(scores, labels, images) * (len(labels) / n)

    def sum_gradients(self, network: nn.Module) -> None:
        """Give every process the gradients of the whole batch."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        for gradient, values in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(values.view(gradient.shape))

    def total(self, *values: float) -> list[float]:
        """The sums of these numbers over all processes."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            sums = sums.cuda()
        dist.all_reduce(sums)
        return sums.tolist()


class _Sum(torch.autograd.Function):
    """The sum over all processes, and of the gradients with respect to it."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with the mean and variance of the batches of all processes."""

    processes: Processes

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(values)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        inputs = values if values.dtype == torch.float64 else values.float()
        axes = [axis for axis in range(values.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
        count = torch.full((), values.numel() // values.shape[1], dtype=inputs.dtype, device=values.device)
        dist.all_reduce(count)
        mean: torch.Tensor = _Sum.apply(inputs.sum(axes)) / count
        centred = inputs - mean.view(shape)
        variance: torch.Tensor = _Sum.apply(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * (count / (count - 1)), self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(values.dtype)


class _SharedBatchNorm1d(_SharedBatchNorm, nn.BatchNorm1d):
    pass


class _SharedBatchNorm2d(_SharedBatchNorm, nn.BatchNorm2d):
    pass


class _SharedDropout(Dropout):
    """Dropout with this process's part of the mask that is drawn for the whole batch."""

    processes: Processes

    def _mask(self, values: torch.Tensor) -> torch.Tensor:
        total = int(self.processes.total(len(values))[0])
        whole = values.new_empty((total, *values.shape[1:]))
        return super()._mask(whole)[self.processes.share(total)]


_SHARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _SharedBatchNorm1d,
    nn.BatchNorm2d: _SharedBatchNorm2d,
    Dropout: _SharedDropout,
}


class _ReadOnlyRun(Run):
    """A run whose files another process writes."""

    def check_free(self, *_: Any) -> None: ...

    def begin(self, *_: Any) -> None: ...

    def save_checkpoint(self, *_: Any) -> None: ...

    def keep_metrics(self, *_: Any) -> None: ...

    def add_metrics(self, *_: Any) -> None: ...

    def finish(self, *_: Any) -> None: ...

    def save_options(self, **_: Any) -> None: ...
