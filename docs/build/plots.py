"""The plots of docs/benchmarks.md and the README, from a saved run."""

from collections.abc import Callable, Iterator
from typing import Any

from bench.runtimes import RUNTIMES
from bench.subjects import MLPERF
from docs.build.benchmarks import Row, SavedRun

BLUE, GREY, RED = "#1f6feb", "#8c959f", "#d1242f"
COLOURS = (BLUE, "#2da44e", RED, "#9a6700", "#8250df", "#57606a", "#bf3989", "#0969da")


def make_figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure without a window, and its `(rows, columns)` axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def pareto(run: SavedRun) -> Any:
    """Accuracy against latency and against parameters, a line of panels per dataset.

    Blue: the model that a user gets by default. Grey: another recipe. Star: MLPerf Tiny's network, trained as MLPerf
    does. The line joins the models that no other beats in both.
    """
    measured = run.select(scope="array to label, every model")
    datasets = list(dict.fromkeys(row["dataset"] for row in measured))
    figure, axes = make_figure(len(datasets), 2, 10, 3.6 * len(datasets))
    quantities = (("p50_ms", "ms from array to label: batch 1, one thread, p50"), ("parameters", "parameters"))
    for panels, dataset in zip(axes, datasets, strict=True):
        rows = [row for row in measured if row["dataset"] == dataset]
        for panel, (key, label) in zip(panels, quantities, strict=True):
            middle = (min(row[key] for row in rows) * max(row[key] for row in rows)) ** 0.5
            for row in rows:
                _draw_model(panel, row, key, name_on_left=row[key] > middle)
            front = pareto_front(rows, key)
            panel.step(
                [row[key] for row in front],
                [100 * row["accuracy"] for row in front],
                where="post", color=GREY, linewidth=1, zorder=1,
            )  # fmt: skip
            panel.set(xscale="log", xlabel=label, ylabel=f"{dataset}, test accuracy in %")
            _set_plain_ticks(panel)
            panel.margins(x=0.2 if len(rows) > 1 else 1, y=0.12)
            panel.grid(alpha=0.25, which="both")
    return figure


def _draw_model(panel: Any, row: Row, key: str, name_on_left: bool) -> None:
    """A point with the accuracy's 95 % interval and the model's name."""
    accuracy, (low, high) = 100 * row["accuracy"], (100 * bound for bound in row["interval95"])
    reference = row["model"] == MLPERF
    colour = RED if reference else BLUE if row.get("default", True) else GREY
    panel.errorbar(
        row[key], accuracy, [[accuracy - low], [high - accuracy]], fmt="*" if reference else "o", elinewidth=1,
        capsize=2, color=colour, markersize=13 if reference else 6, label=row["model"],
    )  # fmt: skip
    name = f"{row['model']} (MLPerf Tiny)" if reference else row["model"]
    style: dict[str, Any] = {"xytext": (-7, 5) if name_on_left else (7, 5), "ha": "right" if name_on_left else "left"}
    if colour == GREY:  # smaller, below, and on the other side, where they cover no other name
        style = {"xytext": (-6, -9), "ha": "right", "fontsize": 6, "color": GREY}
    panel.annotate(name, (row[key], accuracy), textcoords="offset points", **{"fontsize": 8, **style})


def pareto_front(rows: list[Row], key: str) -> list[Row]:
    """The models that no other beats in both accuracy and `key`."""
    best, front = 0.0, []
    for row in sorted(rows, key=lambda row: (row[key], -row["accuracy"])):
        if row["accuracy"] > best:
            best = row["accuracy"]
            front.append(row)
    return front


def _set_plain_ticks(panel: Any) -> None:
    """Ticks at 1, 2 and 5 of each power of ten, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    units = ((1e6, "M"), (1e3, "K"), (0, ""))

    def format_tick(value: float, _: int) -> str:
        factor, unit = next(unit for unit in units if value >= unit[0])
        return f"{value / (factor or 1):.10g}{unit}"

    panel.xaxis.set_major_formatter(FuncFormatter(format_tick))
    panel.xaxis.set_minor_formatter(NullFormatter())


def percentiles(run: SavedRun) -> Any:
    """p50 to p99 of the session alone at batch 1, a panel per model, a line per runtime."""
    models = run.models(scope="session only", batch=1)
    columns = min(3, len(models))
    figure, axes = make_figure(-(-len(models) // columns), columns, 4.6 * columns, 3.2 * -(-len(models) // columns))
    for number, panel in enumerate(axes.flat):
        if number >= len(models):
            panel.set_axis_off()
            continue
        measured = run.select(scope="session only", model=models[number], batch=1)
        rows = sorted(measured, key=lambda row: list(RUNTIMES).index(row["runtime"]))
        panel.set_yticks(range(len(rows)), [row["runtime"] for row in rows], fontsize=8)
        for height, row in enumerate(rows):
            colour = BLUE if row["runtime"] == "onnxruntime" else GREY
            panel.plot([row["p50_ms"], row["p99_ms"]], [height] * 2, color=colour, linewidth=2, alpha=0.5)
            for key, marker in (("p50_ms", "o"), ("p90_ms", "|"), ("p99_ms", "x")):
                panel.plot(row[key], height, marker, color=colour, label=None if number or height else key[:3])
        panel.set(xscale="log", title=models[number], xlabel="ms per call, batch 1")
        panel.invert_yaxis()
        _set_plain_ticks(panel)
        panel.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def throughput(run: SavedRun) -> Any:
    """Images/s by batch size (one session, one thread), and by cores in two ways."""
    figure, [[left, right]] = make_figure(1, 2, 10, 4)
    for row, colour in _with_colours(run.select(scope="session only, by batch")):
        rates = row["images_per_s"]
        left.set_xscale("log")
        left.plot([int(size) for size in rates], list(rates.values()), "o-", color=colour, label=row["model"])
        left.set_xticks([int(size) for size in rates], labels=list(rates))
    left.set(xlabel="images per call (one thread)", ylabel="images/s", ylim=(0, None))
    left.minorticks_off()
    styles = {"threads that share a session": "o-", "threads inside a session": "x--"}
    for way, style in styles.items():
        right.plot([], [], style, color=GREY, label=way)
    for row, colour in _with_colours(run.select(scope="array to label, by cores")):
        for way, rates in row["images_per_s"].items():
            right.plot([int(n) for n in rates], list(rates.values()), styles[way], color=colour)
            right.set_xticks([int(n) for n in rates])
    right.set(xlabel="threads (16 images per call)", ylabel="images/s", ylim=(0, None))
    for panel in (left, right):
        panel.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _with_colours(rows: list[Row]) -> Iterator[tuple[Row, str]]:
    return zip(rows, COLOURS, strict=False)


PLOTS: dict[str, Callable[[SavedRun], Any]] = {
    "pareto.png": pareto,
    "percentiles.png": percentiles,
    "throughput.png": throughput,
}
