"""HTML of "Look inside": the layers of a network for one image, one at a time, and what each unit sees of the input.

It runs in the process of a job (`serve/demo/job.py`). The page shows it with `inside.js`, which draws the maps.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from html import escape
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from serve.demo import result
from zoo.inspection.activations import Inside, Stage
from zoo.inspection.receptive_field import Reach, Window

MAX_MAPS = 64  # of a layer; more would be too small to tap
MAX_KERNELS = 16  # of one map: it has a kernel for each map of the layer before
MIN_MAP_PIXELS = 16  # smaller maps are enlarged, so that lines between them are thin
LARGEST = 1e38  # replaces infinite values of a foreign network

Grey = npt.NDArray[np.uint8]


def html(inside: Inside) -> str:
    """The network's input, all layers, and the answer. Only the first layer is visible until `inside.js` runs."""
    layers = [_data(stage) for stage in inside.stages]
    data = escape(json.dumps({"layers": layers, "input": inside.seen.shape[:2]}, separators=(",", ":")))
    buttons = "".join(
        f'<li><button type="button" data-layer="{number}">{escape(stage.layer.name)}'
        f"<small>{'×'.join(map(str, _shape(stage)))}</small></button></li>"
        for number, stage in enumerate(inside.stages)
    )
    panels = "".join(_panel(inside, number, stage) for number, stage in enumerate(inside.stages))
    height, width = inside.seen.shape[:2]
    seen = result.data_url(inside.seen)
    return (
        f'<div class="zoo-look" data-look="{data}">'
        f'<ol class="zoo-layers" aria-label="Layers, from the input to the answer">{buttons}</ol>'
        '<div class="zoo-look-pictures">'
        f'<figure><span class="zoo-stack"><img class="zoo-pixels" src="{seen}" alt="Input of the network">'
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true"></svg></span>'
        f"<figcaption>Input{escape(inside.of_number)}, {height}×{width}</figcaption></figure>"
        '<figure><span class="zoo-stack"><canvas class="zoo-unit-map" width="8" height="8" tabindex="0" role="img" '
        'aria-label="Feature map. Arrow keys choose a unit."></canvas></span>'
        '<figcaption class="zoo-map-name"></figcaption></figure>'
        '<figure class="zoo-kernel"><span class="zoo-stack"><canvas class="zoo-kernels" width="8" height="8"></canvas>'
        "</span><figcaption></figcaption></figure></div>"
        '<p class="zoo-unit" role="status" aria-live="polite"></p>'
        f"{panels}</div>"
    )


def _shape(stage: Stage) -> tuple[int, ...]:
    count, height, width = stage.values.shape
    return (count,) if height == width == 1 else (count, height, width)


def _panel(inside: Inside, number: int, stage: Stage) -> str:
    count, height, width = stage.values.shape
    of = f", the first {MAX_MAPS}" if count > MAX_MAPS else ""
    what = f"{count} values{of}" if height == width == 1 else f"{count} feature maps{of} of {height}×{width}"
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(sentence)}</dd>" for term, sentence in explain(stage))
    kind = re.sub(r"(\d)x(\d)", r"\1×\2", stage.layer.kind)
    last = number == len(inside.stages) - 1
    answer = ""
    if last and len(inside.card.labels) == len(inside.probabilities):
        answer = "<h4>Answer</h4>" + result.bars(
            inside.card.labels, dict(result.sorted_shares(inside.card.labels, inside.probabilities.tolist()))
        )
    return (
        f'<section class="zoo-panel" data-panel="{number}"{"" if number == 0 else " hidden"}>'
        f"<h3>{escape(stage.layer.name)}: {escape(kind)}</h3><p>{what}. Choose one:</p>"
        f'<canvas class="zoo-maps" width="8" height="8" tabindex="0" role="img" '
        f'aria-label="{escape(what)} of {escape(stage.layer.name)}. Arrow keys choose one."></canvas>'
        f'<dl class="zoo-terms">{terms}</dl>{answer}</section>'
    )


def explain(stage: Stage) -> list[tuple[str, str]]:
    """The terms that belong to a layer, each with one sentence."""
    kind, window, terms = stage.layer.kind, stage.window, []
    if window is not None and "convolution" in kind:
        terms += _of_convolution(kind, window)
        terms.append(("Feature map", "The output of one kernel: bright where the image matches its pattern."))
    elif window is not None:
        what = "keeps the largest value" if kind.startswith("max") else "takes the mean"
        pool = f"{_size(window.kernel)} window {what}, so later layers combine larger parts of the image."
        terms += [("Pooling", f"Each {pool}"), ("Stride", _of_stride(window))]
    elif "pool" in kind:
        terms.append(("Global pooling", "Each map becomes its mean: how strongly its pattern occurs anywhere."))
    else:
        terms.append(("Dense layer", "Each value is a weighted sum of all values before it."))
    if stage.reach is None:
        terms.append(("Receptive field", "Unknown for this layer, because an operator before it is not supported."))
    else:
        size = _largest(stage.reach)
        all_of_it = size == tuple(lines.shape[1] for lines in stage.reach.parts[0])
        sees = "the whole input" if all_of_it else f"up to {_size(size)} pixels of the input, less at the edges"
        terms.append(("Receptive field", f"What one unit depends on: {sees}."))
    return terms


def _of_convolution(kind: str, window: Window) -> list[tuple[str, str]]:
    if window.kernel == (1, 1):
        kernel = "A 1×1 kernel mixes the maps at each position, without the neighbours."
    elif kind.startswith("depthwise"):
        kernel = f"A pattern of {_size(window.kernel)} weights that slides over one map; each map has its own."
    else:
        kernel = f"A pattern of {_size(window.kernel)} weights that slides over all maps of the layer before."
    terms = [("Kernel", kernel), ("Stride", _of_stride(window))]
    rows = sum(window.padding[0])
    lost = (window.kernel[0] - 1) * window.dilation[0]
    if rows:
        terms.append(("Padding", f"{rows} rows of zeros around the map: the kernel can be centred at its edge."))
    elif lost:
        terms.append(("Padding", f"None, so the map loses {lost} rows and columns at its edges."))
    if window.dilation != (1, 1):
        terms.append(("Dilation", f"The kernel takes every {window.dilation[0]}. position, and so sees further."))
    return terms


def _of_stride(window: Window) -> str:
    stride = max(window.stride)
    if stride == 1:
        return "1: the kernel stops at every position."
    return f"{stride}: it moves by {stride} positions, so the map has about 1/{stride} of the rows and columns."


def _size(pair: tuple[int, ...]) -> str:
    return "×".join(map(str, pair))


def _largest(reach: Reach) -> tuple[int, ...]:
    """The extent of the largest field: rows, columns."""
    height, width = reach.shape
    rows = [reach.box(row, width // 2) for row in range(height)]
    columns = [reach.box(height // 2, column) for column in range(width)]
    return max(box[2] - box[0] for box in rows), max(box[3] - box[1] for box in columns)


def _data(stage: Stage) -> dict[str, Any]:
    """What `inside.js` needs of a layer."""
    values = np.nan_to_num(stage.values[:MAX_MAPS].astype(np.float64), posinf=LARGEST, neginf=-LARGEST)
    count, height, width = values.shape
    low, high = values.min(axis=(1, 2)), values.max(axis=(1, 2))
    if height == width == 1:  # one scale for all, because a map of one value has none
        low, high = np.full(count, low.min()), np.full(count, high.max())
    span = np.where(high > low, high - low, 1.0)
    grey = np.rint((values - low[:, None, None]) / span[:, None, None] * 255).astype(np.uint8)
    return {
        "maps": [count, height, width],
        "sheet": _png(grey.reshape(count * height, width)),
        "low": [float(f"{value:.4g}") for value in low],
        "high": [float(f"{value:.4g}") for value in high],
        "kernels": _kernels(stage),
        "reach": None if stage.reach is None else [[_runs(lines) for lines in part] for part in stage.reach.parts],
    }


def _kernels(stage: Stage) -> dict[str, Any] | None:
    """The kernels of the first maps, one below the other, on one scale: 128 is a weight of zero."""
    if stage.kernels is None or max(stage.kernels.shape[2:]) == 1:
        return None
    kernels = np.nan_to_num(stage.kernels[:MAX_MAPS, :MAX_KERNELS].astype(np.float64), posinf=LARGEST, neginf=-LARGEST)
    outputs, inputs, height, width = kernels.shape
    bound = float(np.abs(kernels).max()) or 1.0
    grey = np.rint(kernels / bound * 127 + 128).astype(np.uint8)
    return {
        "size": [inputs, height, width],
        "of": stage.kernels.shape[1],
        "sheet": _png(grey.transpose(0, 2, 1, 3).reshape(outputs * height, inputs * width)),
    }


def _runs(lines: npt.NDArray[np.bool_]) -> list[list[int]]:
    """For each unit along a side the pixels it depends on, as first, end, first, end, ..."""
    edges = np.diff(np.pad(lines.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    return [np.flatnonzero(edge).tolist() for edge in edges]


def _png(grey: Grey) -> str:
    return "data:image/png;base64," + b64encode(cv2.imencode(".png", grey)[1].tobytes()).decode()
