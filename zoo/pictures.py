"""Draws what `zoo/inspect.py` found, as PNG pictures with a title and a sentence each."""

from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import BadInput, ZooError
from zoo.inspect import Inside, Stage, pixels_seen, unit_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, PAPER, BOX = "#1f2328", "#ffffff", "#d1242f"
MOST = 64  # maps or kernels in one picture; more are too small to see

# Week 1's terms, each told where it can be seen.
KERNEL = "A kernel (or filter) is a small pattern of weights that is moved over the picture: a feature extractor."
FEATURE_MAP = "A feature map is the new picture that one kernel makes: bright where it found its pattern."
ACTIVATION = "The activation function, ReLU, keeps what is above zero: without it all layers would be one."
ONE_BY_ONE = "A 1x1 convolution mixes the channels of each position and looks at no neighbour."
THREE_BY_THREE = "A 3x3 convolution looks at each position and its eight neighbours."
POOL = "A max pool keeps the largest of each 2x2 block: half the size, and twice the reach of what follows."
AVERAGE = "A global average pool gives one number a feature map: how much of its pattern there is anywhere."
DENSE = "A dense layer weighs all its inputs for each of its outputs."
LOCAL = "The local receptive field is the kernel's size; the global one is all the input that a value depends on."


def write_pictures(inside: Inside, folder: Path, unit: tuple[str, int | None, int | None] | None = None) -> list[Path]:
    """Draw answer, receptive fields, kernels and feature maps into PNG files of a folder; their paths in reading order.

    Args:
        unit: name of a layer, row and column of a unit whose receptive field is drawn; default: the middle of each.
    Raises:
        BadInput: there is no such unit. ZooError: the package matplotlib is not installed.
    """
    names = [stage.layer.name for stage in inside.stages]
    if unit and unit[0] not in names:
        raise BadInput(f"{inside.card.name} has no layer {unit[0]!r}: there are {', '.join(names)}.")
    try:
        figures = _figures(inside, unit)
    except ModuleNotFoundError as missing:
        raise ZooError(f"Drawing needs {missing.name}: pip install 'pocketzoo[inspect]'.") from None
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110, facecolor=PAPER)
    return paths


def _figures(inside: Inside, unit: tuple[str, int | None, int | None] | None) -> "dict[str, Figure]":
    figures = {"1-answer": _answer(inside), "2-receptive-fields": _fields(inside, unit)}
    convolutions = [stage for stage in inside.stages if stage.kernels is not None and stage.kernels.shape[-1] > 1]
    for stage in convolutions[:2]:
        figures[f"3-kernels-{stage.layer.name}"] = _kernels(inside, stage)
    for number, stage in enumerate(inside.stages, 1):
        if prod(stage.values.shape[1:]) > 1:
            figures[f"4-maps-{number:02}-{stage.layer.name}"] = _maps(inside, stage)
    return figures


def _figure(width: float, height: float, title: str, sentence: str) -> "Figure":
    """An empty figure, sizes in inches, with a title at the top left and a sentence below it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.75 / height))  # type: ignore[union-attr, call-arg]
    figure.text(0.012, 1 - 0.12 / height, title, fontsize=13, weight="bold", va="top", color=INK)
    figure.text(0.012, 1 - 0.42 / height, sentence, fontsize=9.5, va="top", color=INK)
    return figure


def _show(axes: Any, pixels: np.ndarray[Any, Any]) -> None:
    """A uint8 `(H, W, C)` picture as it is."""
    axes.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def _answer(inside: Inside) -> "Figure":
    figure = _figure(9.5, 3.9, f"What {inside.card.name} sees, and what it answers", "; ".join(inside.corrections))
    given, seen, bars = figure.subplots(1, 3, width_ratios=[1, 1, 1.5])
    _show(given, inside.picture)
    given.set_title("the picture", fontsize=10)
    _show(seen, inside.seen)
    seen.set_title(f"what the network sees: {'x'.join(map(str, inside.seen.shape[:2]))}", fontsize=10)
    best = int(inside.probabilities.argmax())
    colours = [BOX if index == best else "#8c959f" for index in range(len(inside.probabilities))]
    bars.barh(inside.card.labels, inside.probabilities, color=colours)
    bars.invert_yaxis()
    bars.set(xlim=(0, 1), title=f"{inside.card.labels[best]}: {inside.probabilities[best]:.1%}")
    bars.spines[["top", "right"]].set_visible(False)
    return figure


def _fields(inside: Inside, unit: tuple[str, int | None, int | None] | None) -> "Figure":
    """For one unit of each layer, or of the one that was chosen, the input that it sees."""
    from matplotlib.patches import Rectangle

    chosen = [stage for stage in inside.stages if unit is None or stage.layer.name == unit[0]]
    columns = min(5, len(chosen))
    rows = ceil(len(chosen) / columns)
    figure = _figure(
        max(2.1 * columns, 7.5), 2.6 * rows + 0.8, "Receptive fields: what one unit sees of the input", LOCAL
    )
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, stage in zip(panels, chosen, strict=False):
        row, column = unit_of(stage, *(unit[1:] if unit else (None, None)))
        top, left, bottom, right = pixels_seen(inside, stage, row, column)
        _show(axes, inside.seen)
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, color=BOX, linewidth=2)
        )
        size = stage.field.size
        axes.set_title(f"{stage.layer.name}, {stage.layer.kind}\nunit {row},{column}: {size}x{size}", fontsize=8.5)
    return figure


def _columns(count: int) -> int:
    """Columns of a grid: full rows for the usual 10, 16, 32 and 64."""
    return 5 if count <= 10 else 8 if count <= 32 else 16


def _grid(figure: "Figure", pictures: "np.ndarray[Any, Any]", **options: Any) -> None:
    columns = _columns(len(pictures))
    for index, axes in enumerate(figure.subplots(ceil(len(pictures) / columns), columns, squeeze=False).flat):
        axes.set_axis_off()
        if index < len(pictures):
            axes.imshow(pictures[index], **options)


def _grid_figure(count: int, title: str, sentence: str) -> "Figure":
    columns = _columns(count)
    return _figure(max(7.5, 0.95 * columns), 0.95 * ceil(count / columns) + 0.9, title, sentence)


def _kernels(inside: Inside, stage: Stage) -> "Figure":
    """The kernels of a layer, red where a weight is positive and blue where it is negative, each on the same scale."""
    assert stage.kernels is not None
    outputs, inputs = stage.kernels.shape[:2]
    flat = stage.kernels.reshape(-1, *stage.kernels.shape[2:])[:MOST]
    of = f"the first {MOST} of {outputs * inputs}" if outputs * inputs > MOST else f"all {outputs * inputs}"
    title = f"Kernels of {stage.layer.name}: {of}, {'x'.join(map(str, flat.shape[1:]))}"
    figure = _grid_figure(len(flat), title, KERNEL)
    bound = float(np.abs(flat).max())
    _grid(figure, flat, cmap="RdBu_r", vmin=-bound, vmax=bound)
    return figure


def _maps(inside: Inside, stage: Stage) -> "Figure":
    """The feature maps of a layer, each from its own least to its own largest value."""
    count, height, width = stage.values.shape
    of = f" (the first {MOST})" if count > MOST else ""
    title = f"{stage.layer.name}: {stage.layer.kind} → {count} feature maps{of} of {height}x{width}"
    figure = _grid_figure(min(count, MOST), title, _sentence(inside, stage))
    _grid(figure, stage.values[:MOST], cmap="magma")
    return figure


def _sentence(inside: Inside, stage: Stage) -> str:
    kind = stage.layer.kind
    if "pool" in kind:
        return AVERAGE if "global" in kind else POOL
    if kind == "dense":
        return DENSE
    if "1x1" in kind:
        return ONE_BY_ONE
    same = [other for other in inside.stages if other.kernels is not None and other.layer.kind == kind]
    position = next(index for index, other in enumerate(same) if other is stage)
    return (FEATURE_MAP, ACTIVATION, THREE_BY_THREE)[position] if position < 3 and "3x3" in kind else LOCAL
