"""The page shows the answer to the visitor's last event, even if an earlier event takes longer."""

from __future__ import annotations

from collections.abc import Awaitable, Hashable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import gradio as gr

T = TypeVar("T")


class _Event:
    """An event that runs. It exists for as long as its function does."""


class Newest:
    """Leaves out results that come after a later event of the same place on the same page has begun.

    The browser holds back an event while an earlier one runs, but two quick events can overlap: for Gradio, an event
    runs only once its inputs are gathered and sent. The page shows results in the order in which they end.
    """

    def __init__(self) -> None:
        self._newest: WeakValueDictionary[Hashable, _Event] = WeakValueDictionary()

    async def result(self, place: Hashable, work: Awaitable[T]) -> T | dict[str, Any]:
        """The result of `work`; if a later event of this place has begun meanwhile, the output stays as it is."""
        event = self._newest[place] = _Event()
        result = await work
        return result if self._newest.get(place) is event else gr.skip()
