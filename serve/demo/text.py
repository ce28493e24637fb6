"""Text of the page as Markdown and HTML: model cards, results and tables."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from serve.service.pool import WorkItem
from zoo.card import Calibration, Card
from zoo.model import Row

HINT = "*Draw a digit or choose an image. The result appears here.*"


def hint(message: str) -> str:
    """HTML of a hint that stands in for a table."""
    return f'<p class="zoo-hint">{escape(message)}</p>'


def percent(share: float) -> str:
    """A share in percent. A share below 1 is never rounded to 100 %."""
    return ">99.99 %" if 0.99995 <= share < 1 else f"{share:.2%}".replace("%", " %")


def bar(probability: float) -> float:
    """The value of a bar. Gradio rounds it to whole percents; a probability below 1 must not be shown as 100 %."""
    return probability if probability == 1 else min(probability, 0.99)


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


def result(row: Row, card: Card, item: WorkItem) -> str:
    """Markdown of a row."""
    if row.error:
        message = row.error
        if message.startswith(f"{row.input} "):
            message = f"The image {message.removeprefix(row.input).lstrip()}"
        return f"### No result\n\n{message}"
    assert row.probability is not None
    text = f"### {row.label} · {percent(row.probability)}"
    if row.unsure:
        text += f"\n\n**Unsure.** {_reason_for_doubt(row.probability, card.calibration)}"
    corrections = "; ".join(row.corrections) or "none; the image already has the form that the network takes"
    return f"{text}\n\nCorrections: {corrections}.\n\n{latency(item)}"


def _reason_for_doubt(probability: float, calibration: Calibration) -> str:
    if probability >= calibration.unsure_below:
        return "A correction is doubtful; see the corrections."
    threshold = percent(calibration.unsure_below)
    if is_calibrated(calibration):
        return f"The probability is below {threshold}, as it is for half of this model's mistakes."
    return f"The probability is below {threshold}, the default threshold. The model has no calibration run."


def is_calibrated(calibration: Calibration) -> bool:
    """Whether temperature and threshold come from a calibration run. Without one, the temperature is exactly 1."""
    return calibration.temperature != 1


def latency(item: WorkItem) -> str:
    stages = {"decode and correct": item.decode_s, "queue": item.queue_s, "network": item.infer_s}
    return "Time: " + " · ".join(
        f"{stage} {seconds * 1e3:.2f}\N{NO-BREAK SPACE}ms" for stage, seconds in stages.items()
    )


def table(header: Iterable[str], rows: Iterable[Iterable[str]], caption: str) -> str:
    """An HTML table. Cells are text, or an image if they begin with `data:image/`."""
    headings = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="zoo-table" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    if text.startswith("data:image/"):
        return f'<td><img src="{escape(text)}" alt="" width="40" height="40"></td>'
    return f"<td>{escape(text)}</td>"
