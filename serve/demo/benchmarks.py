"""HTML of the Benchmarks tab: the report's accuracy against latency and size, with what this machine measured just now.

The report's figures are in `benchmarks.json`, which `python -m docs.build` writes from docs/benchmarks/run.json. The
plots are SVG whose colours are those of the page, so no plotting library is needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "benchmarks.json"
WIDTH, HEIGHT = 520, 320  # of a plot, in pixels at full size, like all numbers below
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 46  # margins
NAME_HEIGHT = 13  # of a name, at least; two names do not overlap


@dataclass(frozen=True)
class Point:
    """A model: its accuracy, and what that costs.

    Attributes:
        report_ms: median latency in the report; None for a model of the user's own.
        here_ms: median latency on this machine; None if it was not measured.
    """

    model: str
    form: str  # of images
    accuracy: float
    parameters: int
    default: bool
    report_ms: float | None
    here_ms: float | None


@cache
def report() -> dict[str, Any]:
    """The report's figures; no rows if the file is missing."""
    try:
        return dict(json.loads(FILE.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {"rows": [], "machine": "unknown", "commit": "", "date": ""}


def report_latency(model: str) -> float | None:
    """Median milliseconds of a model in the report."""
    return next((float(row["p50_ms"]) for row in report()["rows"] if row["model"] == model), None)


def html(points: list[Point], titles: dict[str, str], calls: int, device: str) -> str:
    """A pair of plots for each form of images, with a legend and a sentence on how this machine compares.

    Args:
        titles: of the forms.
        calls: of which a latency here is the median.
    """
    sections = []
    for form, title in titles.items():
        chosen = [point for point in points if point.form == form]
        if chosen:
            latency = _plot(chosen, f"Accuracy against latency, {title}", "ms for one image", _latencies)
            size = _plot(chosen, f"Accuracy against parameters, {title}", "parameters", lambda p: (p.parameters, None))
            sections.append(f'<h3>{escape(title.capitalize())}</h3><div class="zoo-plots">{latency}{size}</div>')
    data = report()
    legend = (
        '<p class="zoo-legend"><span><i class="zoo-dot-here"></i> this machine, now '
        f"({escape(device)}, median of {calls} calls)</span> "
        f'<span><i class="zoo-dot-report"></i> the report ({escape(data["machine"])}, one thread, '
        f"{escape(data['date'])})</span></p>"
    )
    return f'<div class="zoo-benchmarks">{legend}<p>{escape(_comparison(points))}</p>{"".join(sections)}</div>'


def _latencies(point: Point) -> tuple[float | None, float | None]:
    return point.here_ms, point.report_ms


def _comparison(points: Iterable[Point]) -> str:
    ratios = sorted(p.here_ms / p.report_ms for p in points if p.here_ms and p.report_ms)
    if not ratios:
        return "The report has no model of this server."
    ratio = ratios[len(ratios) // 2]
    factor = f"{ratio:.2f}" if ratio < 1 else f"{ratio:.1f}"
    return (
        f"Here, one image takes {factor} times as long as in the report (median of {len(ratios)} models). "
        "Other programs on this machine slow it down."
    )


def _plot(
    points: list[Point], title: str, unit: str, costs: Callable[[Point], tuple[float | None, float | None]]
) -> str:
    """Args:
    costs: what is on the horizontal axis: here (or in any case), and in the report.
    """
    shown = [(point, *costs(point)) for point in points]
    values = [cost for _, *pair in shown for cost in pair if cost]
    if not values:
        return ""
    ticks = _log_ticks(min(values), max(values))
    low, high = log10(ticks[0]), log10(ticks[-1])
    accuracies = [100 * point.accuracy for point in points]
    marks = _linear_ticks(min(accuracies), max(accuracies))

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (log10(value) - low) / (high - low)

    def y(percent: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (percent - marks[0]) / (marks[-1] - marks[0])

    parts = [
        f'<line class="zoo-grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_short(tick)}</text>'
        for tick in ticks
    ]
    parts += [
        f'<line class="zoo-grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>'
        for mark in marks
    ]
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(unit)}</text>')
    taken: list[tuple[float, float, float]] = []  # middle, half of the width, and line of each name
    for point, here, reported in sorted(shown, key=lambda entry: (not entry[0].default, -entry[0].accuracy)):
        height = y(100 * point.accuracy)
        if here and reported:
            ends = f'x1="{x(here):.1f}" x2="{x(reported):.1f}" y1="{height:.1f}" y2="{height:.1f}"'
            parts.append(f'<line class="zoo-link" {ends}/>')
        if reported:
            parts.append(f'<circle class="zoo-dot-report" cx="{x(reported):.1f}" cy="{height:.1f}" r="5"/>')
        if here:
            parts.append(f'<circle class="zoo-dot-here" cx="{x(here):.1f}" cy="{height:.1f}" r="5"/>')
        if here or reported:
            parts.append(_name(point, x(here or reported or 1), height, taken))
    summary = "; ".join(_words(point, here, reported, unit) for point, here, reported in shown)
    caption = f"{title}: test accuracy in %, from {marks[0]:g}"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}: {escape(summary)}">'
        f"{''.join(parts)}</svg><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _words(point: Point, here: float | None, reported: float | None, unit: str) -> str:
    figures = [f"{point.model} {point.accuracy:.2%}"]
    figures += [f"{here:.3g} {unit}"] if here else []
    figures += [f"{reported:.3g} in the report"] if reported else []
    return ", ".join(figures)


def _name(point: Point, x: float, y: float, taken: list[tuple[float, float, float]]) -> str:
    """A model's name beside its point, left or right, above or below; none where all of these places are taken."""
    # Default models have larger names on phones (page.css)
    width, line_height = (8.6 * len(point.model), 17) if point.default else (6.2 * len(point.model), NAME_HEIGHT)
    for dy in (-8, 18, -20, 30):
        for side in (1, -1):
            middle = x + side * (width / 2 + 4)
            if not LEFT < middle - width / 2 < middle + width / 2 < WIDTH - RIGHT or not TOP < y + dy < HEIGHT - BOTTOM:
                continue
            if all(abs(middle - m) > width / 2 + w or abs(y + dy - line) > line_height for m, w, line in taken):
                taken.append((middle, width / 2, y + dy))
                kind = "zoo-strong" if point.default else "zoo-minor"
                place = f'x="{middle:.1f}" y="{y + dy:.1f}" text-anchor="middle"'
                return f'<text class="{kind}" {place}>{escape(point.model)}</text>'
    return ""


def _short(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}K" if value >= 1e3 else f"{value:g}"


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten, from one below the smallest to one above the largest value."""
    powers = range(floor(log10(low)) - 1, ceil(log10(high)) + 2)
    steps = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    first = max(index for index, step in enumerate(steps) if step < low)
    last = min(index for index, step in enumerate(steps) if step > high)
    return [float(f"{step:.0e}") for step in steps[first : last + 1]]


def _linear_ticks(low: float, high: float) -> list[float]:
    """About five round numbers around the values."""
    span = max(high - low, 0.1)
    step = next(step for step in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if span / step <= 5)
    first, last = floor(low / step - 0.3), ceil(high / step + 0.3)
    return [round(number * step, 4) for number in range(first, last + 1)]
