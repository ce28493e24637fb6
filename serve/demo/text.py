"""What the page says: cards, answers and tables, as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from serve.service.pool import Ticket
from zoo.card import Calibration, Card
from zoo.model import Row

HINT = "*Draw or choose a picture: the answer stands here.*"


def hint(text: str) -> str:
    """A hint in the place of a table, as HTML."""
    return f'<p class="zoo-hint">{escape(text)}</p>'


def percent(share: float) -> str:
    """As people read it; what rounds to 100 % without being it says so."""
    return ">99.99 %" if 0.99995 <= share < 1 else f"{share:.2%}".replace("%", " %")


def card(card: Card, size_bytes: int) -> str:
    """The facts of a model that help to judge its answers."""
    facts = {
        "knows": ", ".join(card.labels),
        "trained on": f"{card.dataset.title} ({card.dataset.licence})",
        "test accuracy": str(card.accuracy),
        "parameters": f"{card.parameters.keras:,}",
        "multiply-adds an image": f"{card.macs:,}",
        "input": f"{card.input.height}×{card.input.width}×{card.input.channels}",
        "unsure below": percent(card.calibration.unsure_below)
        + ("" if measured(card.calibration) else " (no calibration run was made)"),
        "file": f"{size_bytes / 1000:,.0f} KB",
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"**{card.name}**: {card.title}\n\n| | |\n|---|---|\n{rows}\n\n[the whole card](/models/{card.name})"


def answer(row: Row, card: Card, ticket: Ticket) -> str:
    """A row in words; never more certain than the network."""
    if row.error:
        error = row.error
        if error.startswith(f"{row.input} "):
            error = f"The picture {error.removeprefix(row.input).lstrip()}"
        return f"### No answer\n\n{error}"
    assert row.probability is not None
    text = f"### {row.label} · {percent(row.probability)}"
    if row.unsure:
        text += f"\n\n**Unsure.** {_doubt(row.probability, card.calibration)}"
    done = "; ".join(row.corrections) or "nothing: the picture already was as the network wants it"
    return f"{text}\n\nDone to the picture: {done}.\n\n{latency(ticket)}"


def _doubt(probability: float, calibration: Calibration) -> str:
    if probability >= calibration.unsure_below:
        return "The picture leaves doubt about what is ink: see what was done to it."
    bound = percent(calibration.unsure_below)
    if measured(calibration):
        return f"Half of this model's mistakes have a probability below {bound}, and so has this answer."
    return f"The probability is below {bound}. How often this model is wrong there has not been measured."


def measured(calibration: Calibration) -> bool:
    """Whether temperature and bound come from a calibration run. Without one the temperature is 1, which none finds."""
    return calibration.temperature != 1


def latency(ticket: Ticket) -> str:
    return (
        f"decode and correct {ticket.decode_s * 1e3:.2f} ms · wait {ticket.queue_s * 1e3:.2f} ms · "
        f"network {ticket.infer_s * 1e3:.2f} ms"
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]], caption: str) -> str:
    """An HTML table; cells are text, or a picture where they begin with `data:image/`."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="zoo-table" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    if text.startswith("data:image/"):
        return f'<td><img src="{escape(text)}" alt="" width="40" height="40"></td>'
    return f"<td>{escape(text)}</td>"
