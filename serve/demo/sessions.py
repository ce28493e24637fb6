"""Bounds what Gradio keeps in memory for each session, and removes it in time.

A session is a name that the client chooses. For each, Gradio keeps the last value of every component, results that
nobody has fetched, and the ids of events; for up to 10,000 sessions, and without an end. This page has no state between
events, so it needs none of this once an event is answered.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from serve.service.asgi import HTTPError

if TYPE_CHECKING:
    from gradio.routes import App

MAX_SESSIONS = 500  # if there are more, those with no results to fetch are forgotten
MAX_STATES = 64  # sessions whose component values Gradio keeps, each of up to about 1 MB
IDLE_S = 120.0  # a session is forgotten so long after its last event was answered
UNFETCHED_S = 5.0  # pages fetch results at once; a session that does not may lose them if there are too many
MAX_EVENTS = 16  # of one session, with results that have not been fetched


class Sessions:
    """The known sessions of one page. For the thread of its event loop."""

    def __init__(self, page: App, idle_s: float = IDLE_S) -> None:
        self._page, self._queue, self._idle_s = page, page.get_blocks()._queue, idle_s
        self._last_used: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._last_used)

    def __contains__(self, session: str) -> bool:
        """Whether the session has messages to fetch, now or later."""
        return session in self._last_used and session in self._queue.pending_messages_per_session

    def has_event(self, event: str) -> bool:
        """Whether an event is waiting, running, or answered and not yet fetched."""
        return event in self._queue.event_ids_to_events or any(
            event in events for events in self._queue.pending_event_ids_session.values()
        )

    def admit(self, session: str) -> None:
        """Register an event of a session. Raises HTTPError if the session, or the server, has too many."""
        if len(self._unfetched(session)) >= MAX_EVENTS:
            message = f"{MAX_EVENTS} results of this session have not been fetched. Fetch them, or reload the page."
            raise HTTPError(429, message, retry_after="1")
        if session not in self._last_used and len(self._last_used) >= MAX_SESSIONS:
            self.sweep(make_room=True)
            self._drop_oldest()
            if len(self._last_used) >= MAX_SESSIONS:
                message = f"The page has too many visitors ({MAX_SESSIONS}). Try again in a minute."
                raise HTTPError(503, message, retry_after="60")
        self._last_used[session] = time.monotonic()

    def _drop_oldest(self) -> None:
        """If there are too many sessions, forget the one that has left results unfetched for the longest time."""
        now = time.monotonic()
        stale = [
            session
            for session, last in self._last_used.items()
            if now - last > UNFETCHED_S and not self._unanswered(session)
        ]
        if stale and len(self._last_used) >= MAX_SESSIONS:
            self._forget(min(stale, key=self._last_used.__getitem__))

    def _unanswered(self, session: str) -> int:
        return sum(event in self._queue.event_ids_to_events for event in self._unfetched(session))

    def _unfetched(self, session: str) -> set[str]:
        return self._queue.pending_event_ids_session.get(session, set())

    def sweep(self, make_room: bool = False) -> None:
        """Forget idle sessions; with `make_room`, all sessions whose results have been fetched."""
        now = time.monotonic()
        for session, last in list(self._last_used.items()):
            if self._unanswered(session):
                self._last_used[session] = now
            elif now - last > self._idle_s or (make_room and not self._unfetched(session)):
                self._forget(session)

    def _forget(self, session: str) -> None:
        del self._last_used[session]
        holder = self._page.state_holder
        for table in (
            holder.session_data,
            holder.time_last_used,
            self._queue.pending_messages_per_session,
            self._queue.pending_event_ids_session,
        ):
            table.pop(session, None)
