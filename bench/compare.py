"""Is a run worse than a saved one? Judged by ratios to what was timed beside, for seconds of two days tell nothing."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """A ratio of a benchmark, then and now; less is better."""

    benchmark: str
    ratio: str
    before: float
    now: float

    @property
    def factor(self) -> float:
        """By how much it has become worse; less than 1 where it has become better."""
        return self.now / self.before

    def __str__(self) -> str:
        said = f"{self.factor:.2f} times the baseline's ({self.now:.3g}, was {self.before:.3g})"
        return f"{self.benchmark}: {self.ratio} is {said}"


def changes(saved: dict[str, Any], now: dict[str, dict[str, Any]]) -> list[Change]:
    """Every ratio that both runs have, the worst first.

    Args:
        saved: a JSON file of pytest-benchmark, read. now: extra_info of this run's benchmarks by their full names.
    """
    before = {one["fullname"]: one["extra_info"].get("ratios", {}) for one in saved["benchmarks"]}
    found = [
        Change(name, ratio, before[name][ratio], value)
        for name, info in now.items()
        for ratio, value in info.get("ratios", {}).items()
        if ratio in before.get(name, {})
    ]
    return sorted(found, key=lambda change: -change.factor)


def verdict(found: list[Change], allowed: float) -> tuple[list[str], bool]:
    """Lines for people, and whether all is well: no ratio has grown to more than `allowed` times the baseline's."""
    worse = [change for change in found if change.factor > allowed]
    head = f"{len(found)} ratios compared, {len(worse)} of them more than {allowed:g} times the baseline's."
    if not found:
        head = "Nothing could be compared: the baseline has none of these benchmarks."
    return [head, *map(str, worse)], bool(found) and not worse
