"""Which models, runtimes and batch sizes are measured: pytest's options, read."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

MODELS = ("mnist14k", "cifar93k", "resnet8")
BATCHES = (1, 64)
ALL_BATCHES = (1, 8, 64, 256)


@dataclass(frozen=True)
class Choice:
    """models: names, of the zoo or not; whoever opens one finds out."""

    models: tuple[str, ...]
    runtimes: tuple[str, ...]
    batches: tuple[int, ...]

    def cases(self) -> list[tuple[str, str, int]]:
        """Model, runtime, batch: every combination."""
        return [(model, runtime, batch) for model in self.models for runtime in self.runtimes for batch in self.batches]


def choose(
    models: str | None, runtimes: str | None, batches: str | None, full: bool, known: list[str], runs: dict[str, bool]
) -> Choice:
    """Read the options, each a list with commas or None.

    Args:
        full: every model of `known`, every runtime and every batch size, where an option says nothing else.
        known: names of all models, for patterns such as `mnist*`. runs: runtimes, and whether they run by default.
    Raises:
        ValueError: a sentence about an unknown runtime, or a batch size that is not one of `ALL_BATCHES`.
    """
    chosen_models = _listed(models) or (tuple(known) if full else MODELS)
    chosen_runtimes = _listed(runtimes) or tuple(name for name, default in runs.items() if default or full)
    found_runtimes = [name for pattern in chosen_runtimes for name in _matching(pattern, list(runs))]
    if strange := [pattern for pattern in chosen_runtimes if not _matching(pattern, list(runs))]:
        raise ValueError(f"There is no runtime {strange[0]!r} to measure: choose from {', '.join(runs)}.")
    sizes = _listed(batches) or tuple(map(str, ALL_BATCHES if full else BATCHES))
    if strange := [size for size in sizes if size not in map(str, ALL_BATCHES)]:
        raise ValueError(f"{strange[0]!r} is no batch size to measure: choose from {', '.join(map(str, ALL_BATCHES))}.")
    return Choice(
        tuple(dict.fromkeys(name for pattern in chosen_models for name in _matching(pattern, known) or [pattern])),
        tuple(dict.fromkeys(found_runtimes)),
        tuple(map(int, sizes)),
    )


def _listed(option: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in option.split(",") if part.strip()) if option else ()


def _matching(pattern: str, names: list[str]) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]
