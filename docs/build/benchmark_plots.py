"""Rows of a saved run → the pictures of docs/benchmarks.md and of the README."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.runtimes import RUNTIMES
from docs.build.benchmark_run import Row, Saved

YARDSTICK = "resnet8"  # MLPerf Tiny's network
OURS, GREY, STAR = "#1f6feb", "#8c959f", "#d1242f"


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure without a window, and its `(rows, columns)` axes."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(rows, columns, squeeze=False)


def pareto(saved: Saved, path: Path) -> None:
    """Accuracy against latency and against parameters, a line of panels a data set; the yardstick is a star."""
    found = saved.of(scope="array to label, every model")
    datasets = list(dict.fromkeys(row["dataset"] for row in found))
    made, axes = figure(len(datasets), 2, 10, 3.4 * len(datasets))
    quantities = (("p50_ms", "ms from array to label: batch 1, one thread, p50"), ("parameters", "parameters"))
    for line, dataset in zip(axes, datasets, strict=True):
        rows = [row for row in found if row["dataset"] == dataset]
        for place, (key, said) in zip(line, quantities, strict=True):
            middle = (min(row[key] for row in rows) * max(row[key] for row in rows)) ** 0.5
            for row in rows:
                _point(place, row, key, leftwards=row[key] > middle)
            front = _front(rows, key)
            place.step([row[key] for row in front], [100 * row["accuracy"] for row in front], where="post",
                       color=GREY, linewidth=1, zorder=1)  # fmt: skip
            place.set(xscale="log", xlabel=said, ylabel=f"{dataset}, test accuracy in %")
            _plain_ticks(place)
            place.margins(x=0.12 if len(rows) > 1 else 1, y=0.12)
            place.grid(alpha=0.25, which="both")
    made.savefig(path, dpi=110)


def _point(place: Any, row: Row, key: str, leftwards: bool) -> None:
    """A model with its interval; its name on the side where there is room."""
    low, high = (100 * bound for bound in row["interval95"])
    accuracy = 100 * row["accuracy"]
    star = row["model"].startswith(f"{YARDSTICK}.")
    place.errorbar(
        row[key], accuracy, [[accuracy - low], [high - accuracy]], fmt="*" if star else "o", elinewidth=1, capsize=2,
        color=STAR if star else OURS, markersize=13 if star else 6,
    )  # fmt: skip
    said = f"{row['model']} (MLPerf Tiny)" if star else row["model"]
    offset, side = ((-7, 5), "right") if leftwards else ((7, 5), "left")
    place.annotate(said, (row[key], accuracy), xytext=offset, textcoords="offset points", ha=side, fontsize=8)


def _front(rows: list[Row], key: str) -> list[Row]:
    """The models that no other beats in both, by `key`."""
    best, found = 0.0, []
    for row in sorted(rows, key=lambda row: (row[key], -row["accuracy"])):
        if row["accuracy"] > best:
            best = row["accuracy"]
            found.append(row)
    return found


def _plain_ticks(place: Any) -> None:
    """Ticks at 1, 2 and 5 of each power of ten, in figures as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    place.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    units = ((1e6, "M"), (1e3, "K"), (0, ""))

    def in_words(value: float, _: int) -> str:
        least, unit = next(one for one in units if value >= one[0])
        return f"{value / (least or 1):.10g}{unit}"

    place.xaxis.set_major_formatter(FuncFormatter(in_words))
    place.xaxis.set_minor_formatter(NullFormatter())


def percentiles(saved: Saved, path: Path) -> None:
    """p50 to p99 of the session alone at batch 1, a panel a model, a line a runtime."""
    models = saved.models(test="test_runtime", batch=1)
    made, axes = figure(1, len(models), 4.6 * len(models), 3.4)
    for number, (place, model) in enumerate(zip(axes[0], models, strict=True)):
        found = saved.of(test="test_runtime", scope="session only", model=model, batch=1)
        rows = sorted(found, key=lambda row: list(RUNTIMES).index(row["runtime"]))
        place.set_yticks(range(len(rows)), [row["runtime"] for row in rows], fontsize=8)
        for height, row in enumerate(rows):
            colour = OURS if row["runtime"] == "onnxruntime" else GREY
            place.plot([row["p50_ms"], row["p99_ms"]], [height] * 2, color=colour, linewidth=2, alpha=0.5)
            for key, marker in (("p50_ms", "o"), ("p90_ms", "|"), ("p99_ms", "x")):
                place.plot(row[key], height, marker, color=colour, label=key[:3] if not (number or height) else None)
        place.set(xscale="log", title=model, xlabel="ms a call, batch 1")
        place.invert_yaxis()
        _plain_ticks(place)
        place.grid(axis="x", alpha=0.25)
    made.legend(loc="outside lower center", ncols=3)
    made.savefig(path, dpi=100)


def throughput(saved: Saved, path: Path) -> None:
    """Pictures a second by batch size (one session, one thread), and by cores in two ways."""
    made, [[left, right]] = figure(1, 2, 10, 3.8)
    for row, colour in zip(saved.of(scope="session only, by batch"), _colours(), strict=False):
        rates = row["images_per_s"]
        left.set_xscale("log")
        left.plot([int(size) for size in rates], list(rates.values()), "o-", color=colour, label=row["model"])
        left.set_xticks([int(size) for size in rates], labels=list(rates))
    left.set(xlabel="pictures a call (one thread)", ylabel="pictures/s", ylim=(0, None))
    left.minorticks_off()
    styles = {"threads that share a session": "o-", "threads inside a session": "x--"}
    for way, style in styles.items():
        right.plot([], [], style, color=GREY, label=way)
    for row, colour in zip(saved.of(scope="array to label, by cores"), _colours(), strict=False):
        for way, rates in row["images_per_s"].items():
            right.plot([int(n) for n in rates], list(rates.values()), styles[way], color=colour)
            right.set_xticks([int(n) for n in rates])
    right.set(xlabel="threads (16 pictures a call)", ylabel="pictures/s", ylim=(0, None))
    for place in (left, right):
        place.grid(alpha=0.25)
    made.legend(loc="outside lower center", ncols=5, fontsize=8)
    made.savefig(path, dpi=100)


def _colours() -> Iterator[str]:
    return iter((OURS, "#2da44e", STAR, "#9a6700", "#8250df", "#57606a", "#bf3989", "#0969da"))


PICTURES = {"pareto.png": pareto, "percentiles.png": percentiles, "throughput.png": throughput}
