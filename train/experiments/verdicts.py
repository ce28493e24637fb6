"""From results to verdicts: means, paired differences with Student's interval, and what may be concluded."""

import statistics
from dataclasses import dataclass

from train.experiments import quantities
from train.experiments.quantities import Result
from train.experiments.study import Check, Verdict

Results = dict[str, dict[int, Result]]  # variant → seed → result


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds; sd is None for one seed, and the 95 % interval is then without bounds."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: list[float]) -> "Estimate":
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    @property
    def half_width(self) -> float:
        """Half of Student's 95 % interval of the mean."""
        from scipy.stats import t

        return float("inf") if self.sd is None else float(t.ppf(0.975, self.n - 1)) * self.sd / self.n**0.5


@dataclass(frozen=True)
class Finding:
    """A check's outcome: the judged variant's estimate, the other's and the difference (variant minus other) if any."""

    check: Check
    variant: Estimate | None
    other: Estimate | None
    difference: Estimate | None
    verdict: Verdict


def values(check_quantity: str, variant: str, results: Results) -> dict[int, float]:
    """The quantity by seed."""
    measure = getattr(quantities, check_quantity)
    return {seed: measure(result) for seed, result in sorted(results.get(variant, {}).items())}


def judge(check: Check, results: Results) -> Finding:
    """What the finished runs say; runs that are missing make it "cannot be told"."""
    own = values(check.quantity, check.variant, results)
    other = values(check.quantity, check.against, results) if isinstance(check.against, str) else {}
    paired = [own[seed] - other[seed] for seed in own if seed in other]
    difference = Estimate.of(paired) if paired else None
    return Finding(
        check,
        Estimate.of(list(own.values())) if own else None,
        Estimate.of(list(other.values())) if other else None,
        difference,
        _verdict(check, list(own.values()), difference),
    )


def _verdict(check: Check, own: list[float], difference: Estimate | None) -> Verdict:
    if check.expected == "none":
        return "cannot be told" if not own else "holds" if not any(own) else "does not hold"
    if check.expected == "at least":
        judged = Estimate.of([value - float(check.against or 0) for value in own]) if own else None
    else:
        judged = difference
    if judged is None:
        return "cannot be told"
    low, high = judged.mean - judged.half_width, judged.mean + judged.half_width
    inside, outside = {
        "same": (-check.margin <= low and high <= check.margin, high < -check.margin or low > check.margin),
        "more": (low > 0, high < 0),
        "less": (high < 0, low > 0),
        "no less": (low >= -check.margin, high < -check.margin),
        "at least": (low >= 0, high < 0),
    }[check.expected]
    return "holds" if inside else "does not hold" if outside else "cannot be told"


def all_together(verdicts: list[Verdict]) -> Verdict:
    """A claim holds when all its checks hold, and falls with any of them."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "cannot be told" if "cannot be told" in verdicts else "holds"
