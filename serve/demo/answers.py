"""What happens when somebody draws, uploads or clicks: each function is one event of the page and one of its API."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt

from serve.demo import words
from serve.demo.files import new_folder
from serve.http.metrics import Metrics
from serve.pool import Ticket
from serve.service import Service
from serve.settings import DEFAULT_MODEL
from zoo.card import Card, Form
from zoo.errors import ZooError
from zoo.image import Named
from zoo.photos import Fit

SHOWN = 5  # guesses
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
SIDE = 224  # pixels of the picture that shows what the network sees, about

Answer = tuple[dict[str, float] | None, npt.NDArray[np.uint8] | None, str]


class Answers:
    """The page's functions, on the workers that the HTTP routes use too."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service, self._metrics = service, metrics

    def names(self, form: Form | None = None) -> list[str]:
        """Models that are served, of one kind of pictures or all; the one that the command takes by default first."""
        cards = [card for card in self._service.cards if form is None or card.input.form == form]
        return [card.name for card in sorted(cards, key=lambda card: card.architecture != DEFAULT_MODEL)]

    def card(self, name: str) -> str:
        return words.card(self._card(name), self._service.runner(name).model.size_bytes)

    def _card(self, name: str) -> Card:
        return self._service.runner(name).model.card

    async def drawn(self, drawing: str | None, name: str) -> Answer:
        """A drawing as a data URL, as the page's sheet gives it; "" for an empty sheet."""
        if not drawing:
            return None, None, words.HINT
        return await self._answer(Named("drawing", _drawing(drawing)), name, "crop")

    async def pictured(self, path: str | None, name: str, fit: Fit = "crop") -> Answer:
        """A picture file as it was uploaded."""
        return (None, None, words.HINT) if path is None else await self._answer(_file(path), name, fit)

    async def _answer(self, source: Any, name: str, fit: Fit) -> Answer:
        ticket = await self._ask(source, name, fit)
        row, pixels = ticket.rows[0], ticket.prepared[0].pixels
        bars = None if row.error else {guess.label: guess.probability for guess in row.top_k}
        seen = None if pixels is None else magnified(pixels)
        return bars, seen, words.answer(row, self._card(name), ticket)

    async def _ask(self, source: Any, name: str, fit: Fit = "crop") -> Ticket:
        ticket = Ticket(self._service.runner(name), [source], top_k=SHOWN, fit=fit)
        try:
            await self._service.pool.answer(ticket)
        except ZooError as error:
            raise gr.Error(str(error), print_exception=False) from None
        finally:
            self._metrics.ticket(ticket)
        return ticket

    async def compared(self, path: str | None, form: Form) -> str:
        """One picture through all models of its kind, side by side."""
        if path is None:
            return words.HINT
        rows = []
        for name in self.names(form):
            ticket = await self._ask(_file(path), name)
            row, card = ticket.rows[0], self._card(name)
            if row.error:
                raise gr.Error(row.error, print_exception=False)
            assert row.probability is not None
            doubt = " (unsure)" if row.unsure else ""
            size = self._service.runner(name).model.size_bytes
            answer = [f"{row.label}{doubt}", words.percent(row.probability), f"{ticket.infer_s * 1e3:.2f} ms"]
            rows.append([name, *answer, f"{size / 1000:,.0f} KB", f"{card.accuracy.value:.2%}"])
        head = ["model", "answer", "probability", "latency", "size", "test accuracy"]
        return words.table(head, rows, f"{len(rows)} models, one after the other")

    async def inside(self, path: str | None, name: str) -> list[tuple[str, str]]:
        """Pictures of every layer at work, with their names; in a thread of its own, for it takes seconds."""
        if path is None:
            return []
        try:
            return await asyncio.to_thread(_look, path, name)
        except ZooError as error:
            raise gr.Error(str(error), print_exception=False) from None


def _drawing(url: Any) -> bytes:
    """The file in a data URL, which the page makes and others may get wrong."""
    found = DATA_URL.match(url) if isinstance(url, str) else None
    try:
        if found:
            return b64decode(url[found.end() :], validate=True)
    except ValueError:
        pass
    raise gr.Error("A drawing is a data URL: data:image/png;base64,…", print_exception=False)


def _file(path: str) -> Named:
    return Named(Path(path).name, Path(path).read_bytes())


def _look(path: str, name: str) -> list[tuple[str, str]]:
    from zoo.inspect import look_inside
    from zoo.pictures import write_pictures

    pictures = write_pictures(look_inside(name, path), new_folder("inside"))
    return [(str(picture), picture.stem.lstrip("0123456789-").replace("-", " ")) for picture in pictures]


def magnified(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 `(H, W, C)` → every pixel a square, as RGB or grey `(H, W)`."""
    times = max(1, SIDE // pixels.shape[0])
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    return large[..., 0] if large.shape[-1] == 1 else large
