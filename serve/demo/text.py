"""Text of the page as Markdown and HTML: model cards and tables. `result.py` has the answer for one image."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from zoo.card import Calibration, Card

NUMBER = ' class="zoo-number"'
KINDS = {"digit": "digits", "photo": "photographs"}


def hint(message: str) -> str:
    """HTML of a hint that stands in for a table."""
    return f'<p class="zoo-hint" role="status">{escape(message)}</p>'


def percent(share: float) -> str:
    """A share in percent. A share below 1 is never rounded to 100 %."""
    return ">99.99 %" if 0.99995 <= share < 1 else f"{share:.2%}".replace("%", " %")


def choice(card: Card, size_bytes: int, latency_s: float | None) -> str:
    """What a person chooses a model by, in one line."""
    accuracy = f"{percent(card.accuracy.value)}" if card.accuracy else "accuracy unknown"
    parts = [card.name, KINDS[card.input.form], accuracy, f"{size_bytes / 1000:,.0f} KB"]
    return " · ".join(parts if latency_s is None else [*parts, milliseconds(latency_s)])


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def card(card: Card, size_bytes: int) -> str:
    """Markdown of a model's facts that help to judge its results."""
    calibration = card.calibration
    facts = {
        "labels": ", ".join(card.labels),
        "trained on": f"{card.dataset.title} ({card.dataset.licence})" if card.dataset else "unknown",
        "test accuracy": str(card.accuracy) if card.accuracy else "unknown",
        "parameters": f"{card.parameters.count:,}",
        "MACs per image": "unknown" if card.macs is None else f"{card.macs:,}",
        "input": f"{card.input.height}×{card.input.width}×{card.input.channels}",
        "unsure below": percent(calibration.unsure_below)
        + ("" if is_calibrated(calibration) else " (default: no calibration run was made)"),
        "file size": f"{size_bytes / 1000:,.0f} KB",
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"**{card.name}**: {card.title}\n\n| | |\n|---|---|\n{rows}\n\n[Complete card (JSON)](/models/{card.name})"


def is_calibrated(calibration: Calibration) -> bool:
    """Whether temperature and threshold come from a calibration run. Without one, the temperature is exactly 1."""
    return calibration.temperature != 1


def table(
    header: Iterable[str], rows: Iterable[Iterable[str]], caption: str, classes: Iterable[str] = (), filters: str = ""
) -> str:
    """An HTML table that a click on a heading sorts (`table.js`).

    Args:
        rows: of cells. A cell is text, an image if it begins with `data:image/`, or text with a mark after a tab.
        classes: of the rows, in their order.
        filters: HTML above the table.
    """
    names, lines = list(header), [list(row) for row in rows]
    # Figures are aligned at the right, below a heading at the right; a label is a name, even where it is a digit
    numeric = [
        name != "label" and bool(lines) and all(_is_number(line[column]) for line in lines)
        for column, name in enumerate(names)
    ]
    headings = "".join(
        f'<th scope="col"{NUMBER if number else ""}><button type="button">{escape(name)}</button></th>'
        for name, number in zip(names, numeric, strict=True)
    )
    row_classes = iter(classes)
    body = "".join(f'<tr class="{next(row_classes, "")}">{"".join(map(_cell, line, numeric))}</tr>' for line in lines)
    return (
        f'{filters}<p class="zoo-caption">{escape(caption)}</p>'
        f'<div class="zoo-table" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in (">", "")


def _cell(text: str, number: bool) -> str:
    if text.startswith("data:image/"):
        return f'<td><img src="{escape(text)}" alt="" width="48" height="48"></td>'
    text, _, mark = text.partition("\t")
    return f"<td{NUMBER if number else ''}>{escape(text)}{f' <mark>{escape(mark)}</mark>' if mark else ''}</td>"
