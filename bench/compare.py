"""Compares a run with a saved one by ratios, because seconds of two days depend on what else the machine did."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """A benchmark's ratio in the baseline and in this run; less is better."""

    benchmark: str
    ratio: str
    before: float
    now: float

    @property
    def factor(self) -> float:
        """How many times worse the ratio is; below 1 if it is better."""
        return self.now / self.before

    def __str__(self) -> str:
        return (
            f"{self.benchmark}: {self.ratio} is {self.factor:.2f} times the baseline's "
            f"({self.now:.3g}, was {self.before:.3g})"
        )


def changes(saved: dict[str, Any], infos: dict[str, dict[str, Any]]) -> list[Change]:
    """Every ratio that both runs have, the worst first.

    Args:
        saved: the content of a JSON file of pytest-benchmark.
        infos: extra_info of this run's benchmarks by full name.
    """
    before = {benchmark["fullname"]: benchmark["extra_info"].get("ratios", {}) for benchmark in saved["benchmarks"]}
    changed = [
        Change(name, ratio, before[name][ratio], value)
        for name, info in infos.items()
        for ratio, value in info.get("ratios", {}).items()
        if ratio in before.get(name, {})
    ]
    return sorted(changed, key=lambda change: -change.factor)


def report(changed: list[Change], limit: float) -> tuple[list[str], bool]:
    """Lines to print, and whether the run passes: it needs a ratio, and none over `limit` times its baseline."""
    worse = [change for change in changed if change.factor > limit]
    head = f"{len(changed)} ratios compared, {len(worse)} of them more than {limit:g} times the baseline's."
    if not changed:
        head = "No ratio was compared: the baseline has none of these benchmarks."
    return [head, *map(str, worse)], bool(changed) and not worse
