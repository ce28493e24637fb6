"""Learning-rate schedules as data: each is called with the progress in epochs (a float) and gives a learning rate."""

from dataclasses import dataclass


@dataclass(frozen=True)
class InverseTime:
    """`initial / (1 + decay · epoch)`, constant within an epoch: the course notes' formula, epochs counted from 0."""

    initial: float
    decay: float

    def __call__(self, progress: float, epochs: int) -> float:
        return self.initial / (1 + self.decay * int(progress))


@dataclass(frozen=True)
class Constant:
    """The same learning rate throughout."""

    rate: float

    def __call__(self, progress: float, epochs: int) -> float:
        return self.rate


@dataclass(frozen=True)
class OneCycle:
    """Linear from 0 to `peak` over the first `warmup` of the run, then linear to 0 (Smith, arXiv 1708.07120)."""

    peak: float
    warmup: float = 0.2

    def __call__(self, progress: float, epochs: int) -> float:
        done = progress / epochs
        return self.peak * (done / self.warmup if done < self.warmup else (1 - done) / (1 - self.warmup))


Schedule = InverseTime | Constant | OneCycle
