"""What Gradio keeps in memory for every session, bounded and removed in time.

A session is a name that the client invents. For each, Gradio keeps the last value of every component, results that
nobody has fetched and the ids of events, up to 10,000 sessions and with no end. This page needs none of it once an
event is answered: it keeps no state between events.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from serve.service.asgi import Refused

if TYPE_CHECKING:
    from gradio.routes import App

MOST = 500  # sessions that are known; those with nothing to fetch make room for others
STATES = 64  # sessions whose components' values are kept, each up to 1 MB or so; any other starts with none
IDLE_S = 120.0  # after its last event was answered, a session is forgotten
UNFETCHED_S = 5.0  # a page fetches its answers at once; who does not may lose them where room is needed
EVENTS = 16  # of one session, whose answers have not been fetched


class Sessions:
    """The sessions of one page. For the thread of its event loop."""

    def __init__(self, page: App, idle_s: float = IDLE_S) -> None:
        self._page, self._queue, self._idle_s = page, page.get_blocks()._queue, idle_s
        self._last_used: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._last_used)

    def __contains__(self, session: str) -> bool:
        """Whether there is something to be heard of this session."""
        return session in self._last_used and session in self._queue.pending_messages_per_session

    def has_event(self, event: str) -> bool:
        """Whether an event is waiting, running, or answered and not yet fetched."""
        return event in self._queue.event_ids_to_events or any(
            event in events for events in self._queue.pending_event_ids_session.values()
        )

    def enter(self, session: str) -> None:
        """Make room for an event of a session. Raises Refused."""
        if len(self._unfetched(session)) >= EVENTS:
            raise Refused(429, f"The answers to {EVENTS} events of this session have not been fetched: fetch them, or "
                          "load the page again.", retry_after="1")  # fmt: skip
        if session not in self._last_used and len(self._last_used) >= MOST:
            self.sweep(make_room=True)
            self._drop_oldest()
            if len(self._last_used) >= MOST:
                raise Refused(503, f"{MOST} visitors use this page already: try again in a minute.", retry_after="60")
        self._last_used[session] = time.monotonic()

    def _drop_oldest(self) -> None:
        """Where there is no room, forget whoever has left its answers unfetched for the longest time."""
        now = time.monotonic()
        left = [one for one, last in self._last_used.items() if now - last > UNFETCHED_S and not self._unanswered(one)]
        if left and len(self._last_used) >= MOST:
            self._forget(min(left, key=self._last_used.__getitem__))

    def _unanswered(self, session: str) -> int:
        return sum(event in self._queue.event_ids_to_events for event in self._unfetched(session))

    def _unfetched(self, session: str) -> set[str]:
        return self._queue.pending_event_ids_session.get(session, set())

    def sweep(self, make_room: bool = False) -> None:
        """Forget sessions whose events were answered some time ago; to make room, all whose answers were fetched."""
        now = time.monotonic()
        for session, last in list(self._last_used.items()):
            if self._unanswered(session):
                self._last_used[session] = now
            elif now - last > self._idle_s or (make_room and not self._unfetched(session)):
                self._forget(session)

    def _forget(self, session: str) -> None:
        del self._last_used[session]
        holder = self._page.state_holder
        for kept in (
            holder.session_data,
            holder.time_last_used,
            self._queue.pending_messages_per_session,
            self._queue.pending_event_ids_session,
        ):
            kept.pop(session, None)
