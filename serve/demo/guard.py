"""What stands between the network and Gradio: few of its routes, and of these only what the page needs.

Gradio trusts its clients with much that a public server must not: it opens files by the paths that an event names,
fetches addresses, keeps uploads under names that follow from their content, and serves some sixty routes. So

- a route is reachable only where `ROUTES` lists it;
- an event is written anew from the parts that are understood: a file is the id of an upload (`serve/demo/files.py`),
  never a path or an address;
- uploads and files are received and sent here, not by Gradio;
- the path of the files' folder is taken out of whatever Gradio answers.

docs/decisions/0011-page-security.md tells who may call what.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shown  # what came is shown shortened
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, quote, urlencode

import gradio
import orjson
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from serve.demo.cache import Assets, Page, Pages
from serve.demo.files import TOKEN, Files
from serve.demo.sessions import Sessions
from serve.service.asgi import FormParser, Message, Receive, Refused, Send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gradio.routes import App

FRONTEND = Path(gradio.__file__).parent / "templates" / "frontend"
EVENT_BYTES = 1_000_000  # of an event's JSON; the largest that the page sends is a drawing, 410 KB as raw pixels
EVENT_FILES = 200  # in one event, or one upload
EVENT_BODIES = 8  # that all files of one event may hold, in bodies of the largest size
UPLOADS = 512  # that can be watched at a time
UPLOAD_BEGINS_S = 3.0  # after who watches it has come, or it has ended already
UPLOAD_S = 600.0  # how long it is watched

JOIN = "/gradio_api/queue/join"
SESSION = r"[A-Za-z0-9_-]{1,64}"
_PART = r"[A-Za-z0-9_@-][A-Za-z0-9_@.-]*"  # of a path: neither hidden nor `..`
FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}
SHOWN = {  # what a browser may show by itself; anything else is a file to be saved, whatever it holds
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
}
PAGE_POLICY = (  # Gradio's scripts build functions from text, and its styles are written into the page
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
# Headers that Gradio would believe (x-gradio-server, x-forwarded-host: where the page is; origin: whom to let read
# its answers, which is anyone), or would obey though no path could be taken out of the answer then
# (accept-encoding), and keys, which it need not know
HIDDEN_HEADERS = frozenset(
    {b"x-gradio-server", b"x-forwarded-host", b"origin", b"accept-encoding", b"cookie", b"authorization", b"x-api-key"}
)

Handler = Callable[["Guard", Request, "Client", dict[str, str]], Awaitable[None]]


@dataclass(frozen=True)
class Client:
    """Who sent a request, and waits for the answer: ASGI's two functions."""

    receive: Receive
    send: Send

    async def reply(self, request: Request, response: Response) -> None:
        await response(request.scope, self.receive, self.send)


@dataclass(eq=False)
class _Upload:
    """An upload that somebody watches, or is going to."""

    started: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Route:
    """methods: that are answered. path: as the documentation shows it; pattern: the same, for `fullmatch`. query: the
    parameters that are passed on.
    """

    methods: tuple[str, ...]
    path: str
    pattern: re.Pattern[str]
    handler: Handler
    query: frozenset[str]


class Guard:
    """ASGI application around Gradio's."""

    def __init__(self, page: App, files: Files, sessions: Sessions, max_body_bytes: int) -> None:
        self._page, self._files, self._sessions = page, files, sessions
        self._event_bytes = EVENT_BODIES * max_body_bytes
        functions = page.get_blocks().fns
        self._inputs = {index: [_kind(block) for block in one.inputs] for index, one in functions.items()}
        self._names = {str(one.api_name): index for index, one in functions.items() if one.api_visibility == "public"}
        self._roots = [root.encode() for root in _spellings(f"{files.root}/")]
        self._uploads: dict[str, _Upload] = {}
        self._pages, self._assets = Pages(), Assets(FRONTEND)
        documented = page.get_blocks().get_api_info()["named_endpoints"]
        self._parameters = {
            name: {one["parameter_name"]: one.get("parameter_default") for one in documented[f"/{name}"]["parameters"]}
            for name in self._names
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Raises HTTPException for what is not there, Refused for what is not allowed."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        allowed: list[str] = []
        for route in ROUTES:
            if found := route.pattern.fullmatch(scope["path"]):
                if scope["method"] in route.methods:
                    request = Request({**scope, "query_string": _query(scope, route.query)}, receive)
                    await route.handler(self, request, Client(receive, send), found.groupdict())
                    return
                allowed += route.methods
        raise HTTPException(405, headers={"Allow": ", ".join(allowed)}) if allowed else HTTPException(404)

    async def asset(self, request: Request, client: Client, found: dict[str, str]) -> None:
        """A file of Gradio's frontend."""
        response = await self._assets.response(request, found["path"])
        if response is None:
            raise HTTPException(404)
        await client.reply(request, response)

    async def page(self, request: Request, client: Client, _: dict[str, str]) -> None:
        """What is the same for everybody, but for the server's name in it."""
        scope, headers = request.scope, request.headers
        key = (scope["path"], scope["query_string"], headers.get("host"), headers.get("x-forwarded-proto"))
        page = await self._pages.get(key, lambda: self._made(request))
        await client.reply(request, page.response(request))

    async def _made(self, request: Request) -> Page:
        self._page.api_info = None  # which would have the name by which the first client called the server
        request.scope["method"] = "GET"
        status, headers, body = await self._answer(request, request.receive)
        kept = {name: headers[name] for name in ("content-type", "cache-control") if name in headers}
        kept |= {"x-content-type-options": "nosniff", "vary": "accept-encoding"}
        if request.scope["path"] == "/":
            kept["content-security-policy"] = PAGE_POLICY
        return await asyncio.to_thread(Page.of, status, kept, body)

    async def stream(self, request: Request, client: Client, _: dict[str, str]) -> None:
        """Events, for as long as the client listens."""
        started = False

        async def send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
            else:  # an event is one message: no path is cut in two
                message["body"] = self._without_root(message.get("body", b""))
            await client.send(message)

        try:
            await self._page(_scope(request), client.receive, send)
        except HTTPException:  # the session was forgotten while its client listened
            if not started:
                raise
            await client.send({"type": "http.response.body", "body": b""})

    async def listen(self, request: Request, client: Client, found: dict[str, str]) -> None:
        """The events of one session."""
        if request.query_params.get("session_hash", "") not in self._sessions:
            raise Refused(404, "There are no events of this session: start one with POST /gradio_api/queue/join.")
        await self.stream(request, client, found)

    async def result(self, request: Request, client: Client, found: dict[str, str]) -> None:
        """The answer to one event."""
        if not self._sessions.has_event(found["event"]):
            raise Refused(404, "There is no such event, or its answer was fetched already.")
        await self.stream(request, client, found)

    async def join(self, request: Request, client: Client, _: dict[str, str]) -> None:
        """An event of the page."""
        event = await self._json(request)
        function = event.get("fn_index")
        if not isinstance(function, int) or isinstance(function, bool) or function not in self._inputs:
            raise Refused(400, "fn_index is the number of a function of this page: /config lists them.")
        await self._queue(request, client, function, event.get("data"), event.get("session_hash"))

    async def call(self, request: Request, client: Client, found: dict[str, str]) -> None:
        """An event by its name: a list of inputs."""
        function = self._function(found["name"])
        event = await self._json(request)
        await self._queue(request, client, function, event.get("data"), event.get("session_hash") or _new_session())

    async def call_by_name(self, request: Request, client: Client, found: dict[str, str]) -> None:
        """An event by its name: inputs by theirs."""
        function = self._function(found["name"])
        inputs = self._in_order(found["name"], await self._json(request))
        await self._queue(request, client, function, inputs, _new_session())

    def _function(self, name: str) -> int:
        if name not in self._names:
            raise Refused(404, f"There is no function {name!r}: there are {', '.join(self._names)}.")
        return self._names[name]

    def _in_order(self, name: str, inputs: dict[str, Any]) -> list[Any]:
        """Inputs as `/gradio_api/info` names them, in the function's order. Raises Refused."""
        defaults = self._parameters[name]
        for unknown in inputs.keys() - defaults.keys():
            raise Refused(400, f"There is no input {unknown[:40]!r}: there are {', '.join(defaults)}.")
        return [inputs.get(name, default) for name, default in defaults.items()]

    async def _queue(self, request: Request, client: Client, function: int, data: object, session: object) -> None:
        """Give an event to Gradio's queue, with nothing in it that was not understood."""
        if not (isinstance(session, str) and re.fullmatch(SESSION, session)):
            raise Refused(400, "session_hash is a name of up to 64 letters and digits, which the client invents.")
        kinds = self._inputs[function]
        if not isinstance(data, list) or len(data) != len(kinds):
            raise Refused(400, f"data is the list of the function's inputs, of which it takes {len(kinds)}.")
        inputs = _Inputs(self._files, self._event_bytes)
        values = [inputs.checked(value, kind) for value, kind in zip(data, kinds, strict=True)]
        self._sessions.enter(session)
        body = orjson.dumps({"fn_index": function, "data": values, "session_hash": session})
        parts: list[Message] = [{"type": "http.request", "body": body}]

        async def receive() -> Message:
            return parts.pop() if parts else await client.receive()

        headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-length"]
        request.scope["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
        request.scope["path"], request.scope["raw_path"] = JOIN, JOIN.encode()
        status, answer_headers, answer = await self._answer(request, receive)
        await client.reply(request, Response(answer, status, media_type=answer_headers.get("content-type")))

    async def _json(self, request: Request) -> dict[str, Any]:
        """The request's body. Raises Refused; a form, which any page may send from anywhere, is refused too."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "Send the event as JSON, with Content-Type: application/json.")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > EVENT_BYTES:
                raise Refused(413, f"An event has at most {EVENT_BYTES / 1e6:g} MB: upload files first, and send the "
                              "ids that /gradio_api/upload answers.", connection="close")  # fmt: skip
        try:
            event = orjson.loads(body)
        except orjson.JSONDecodeError:
            event = None
        if not isinstance(event, dict):
            raise Refused(400, "An event is a JSON object.")
        return event

    async def _answer(self, request: Request, receive: Receive) -> tuple[int, Headers, bytes]:
        """What Gradio answers. Raises ClientDisconnect where it answers nothing, since the client has left."""
        start: Message = {}
        body = bytearray()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self._page(_scope(request), receive, send)
        if not start:
            raise ClientDisconnect
        return start["status"], Headers(raw=list(start["headers"])), self._without_root(bytes(body))

    def _without_root(self, body: bytes) -> bytes:
        for root in self._roots:
            body = body.replace(root, b"")
        return body

    async def upload(self, request: Request, client: Client, _: dict[str, str]) -> None:
        """A form of files, each of which gets an id; the answer is the list of ids."""
        upload_id = request.query_params.get("upload_id", "")
        upload = self._upload(upload_id)
        upload.started = True
        try:
            ids = await self._received(request)
        except ClientDisconnect:
            return
        finally:
            upload.ended.set()
            self._uploads.pop(upload_id, None)
        await client.reply(request, JSONResponse(ids))

    async def _received(self, request: Request) -> list[str]:
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise Refused(415, "Send files as a form (multipart/form-data), each as a field `files`.")
        owner = request.client.host if request.client else ""
        try:
            parser = FormParser(request.headers, request.stream(), max_files=EVENT_FILES, max_fields=10)
            form = await parser.parse_whole()
        except (MultiPartException, KeyError, ValueError) as error:
            detail = getattr(error, "message", "it has no boundary").rstrip(".")
            raise Refused(400, f"The form cannot be read ({detail}): send files as multipart/form-data.") from None
        try:
            received = [value for value in form.getlist("files") if isinstance(value, UploadFile)]
            paths = [await asyncio.to_thread(self._files.save, one.filename or "", one.file, owner) for one in received]
        except OSError as error:
            raise Refused(503, f"The server cannot keep files now ({error.strerror}): try again later.") from None
        finally:
            await form.close()
        return [self._files.id(path) for path in paths]

    def _upload(self, upload_id: str) -> _Upload:
        """The upload of that id: who sends it and who watches it come in any order."""
        if not 0 < len(upload_id) <= 64 or len(self._uploads) >= UPLOADS:
            return _Upload()
        return self._uploads.setdefault(upload_id, _Upload())

    async def progress(self, request: Request, client: Client, _: dict[str, str]) -> None:
        """An event when an upload has ended."""
        upload_id = request.query_params.get("upload_id", "")
        upload = self._upload(upload_id)

        async def events() -> AsyncIterator[str]:
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(upload.ended.wait(), UPLOAD_BEGINS_S)
                if upload.started:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(upload.ended.wait(), UPLOAD_S)
            finally:
                if not upload.started and self._uploads.get(upload_id) is upload:
                    del self._uploads[upload_id]
            yield 'data: {"msg": "done"}\n\n'

        await client.reply(request, StreamingResponse(events(), media_type="text/event-stream"))

    async def file(self, request: Request, client: Client, found: dict[str, str]) -> None:
        """A file by its id: a picture to be shown, anything else to be saved."""
        path = self._files.path(found["id"])
        if path is None:
            raise Refused(404, "There is no such file, or it is no longer kept: upload it again.")
        shown = SHOWN.get(path.suffix.lower())
        response = FileResponse(
            path,
            media_type=shown or "application/octet-stream",
            filename=path.name,
            content_disposition_type="inline" if shown else "attachment",
            headers=FILE_HEADERS,
        )
        await client.reply(request, response)


Kind = Literal["text", "file", "files"] | frozenset[str]  # of an input; a set: one of these


def _kind(component: Any) -> Kind:
    """What a component takes. KeyError for one that nobody has thought about yet."""
    if choices := getattr(component, "choices", None):
        return frozenset(value for _, value in choices)
    kinds: dict[str, Kind] = {"html": "text", "image": "file", "file": "files"}
    return kinds[component.get_block_name()]


class _Inputs:
    """The inputs of one event."""

    def __init__(self, files: Files, max_bytes: int) -> None:
        self._files, self._max_bytes = files, max_bytes
        self._count = self._bytes = 0

    def checked(self, value: object, kind: Kind) -> object:
        """An input as Gradio may have it. Raises Refused."""
        if isinstance(kind, frozenset):
            if not isinstance(value, str) or value not in kind:
                raise Refused(400, f"There is no {shown(value)}: choose one of {', '.join(sorted(kind))}.")
            return value
        if kind == "text":
            if isinstance(value, dict | list):
                raise Refused(400, "This input is text.")
            return value
        if value is None:
            return None
        if kind == "file":
            return self._file(value)
        return [self._file(one) for one in (value if isinstance(value, list) else [value])]

    def _file(self, value: object) -> dict[str, Any]:
        path = self._files.path(value.get("path")) if isinstance(value, dict) else None
        if path is None:
            raise Refused(400, "A file is named by the id that POST /gradio_api/upload answered, in `path`; it is kept "
                          "for an hour: upload it again. Paths and addresses are not opened.")  # fmt: skip
        self._count += 1
        self._bytes += path.lstat().st_size
        if self._count > EVENT_FILES or self._bytes > self._max_bytes:
            raise Refused(413, f"At most {EVENT_FILES} files and {self._max_bytes / 1e6:g} MB at a time: send fewer, "
                          "or use the command `zoo predict`, which takes any number.")  # fmt: skip
        return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def _new_session() -> str:
    from uuid import uuid4

    return uuid4().hex


def _query(scope: Message, names: frozenset[str]) -> bytes:
    """The parameters of these names."""
    if not names or not scope["query_string"]:
        return b""
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return urlencode([(name, value) for name, value in pairs if name in names]).encode()


def _scope(request: Request) -> Message:
    """A request as Gradio may see it."""
    return {**request.scope, "headers": [pair for pair in request.scope["headers"] if pair[0] not in HIDDEN_HEADERS]}


def _spellings(path: str) -> set[str]:
    """A path as it may stand in an answer: in JSON of both kinds, as part of an address, as it is."""
    quoted = quote(path, safe="/")
    return {path, quoted, json.dumps(path)[1:-1], orjson.dumps(path).decode()[1:-1]}


def _route(methods: str, path: str, handler: Handler, /, *query: str, **parts: str) -> Route:
    """`parts`: the patterns of what stands in braces in `path`."""
    pattern = "".join(
        f"(?P<{piece[1:-1]}>{parts[piece[1:-1]]})" if piece.startswith("{") else re.escape(piece)
        for piece in re.split(r"(\{\w+\})", path)
    )
    return Route(tuple(methods.split()), path, re.compile(pattern), handler, frozenset(query))


_NAME, _EVENT, _PATH = r"\w{1,64}", r"[0-9a-f]{32}", rf"{_PART}(?:/{_PART})*"

ROUTES: tuple[Route, ...] = (
    _route("GET HEAD", "/", Guard.page),
    _route("GET", "/config", Guard.page),
    _route("GET", "/theme.css", Guard.page),
    _route("GET", "/favicon.ico", Guard.page),
    _route("GET", "/manifest.json", Guard.page),
    _route("GET", "/{path}", Guard.asset, path=rf"(?:assets|static)/{_PATH}"),
    _route("GET", "/gradio_api/info", Guard.page, "all_endpoints"),
    _route("GET", "/gradio_api/app_id", Guard.page),
    _route("GET", "/gradio_api/heartbeat/{session}", Guard.stream, session=SESSION),
    _route("POST", JOIN, Guard.join),
    _route("GET", "/gradio_api/queue/data", Guard.listen, "session_hash"),
    _route("POST", "/gradio_api/call/{name}", Guard.call, name=_NAME),
    _route("GET", "/gradio_api/call/{name}/{event}", Guard.result, name=_NAME, event=_EVENT),
    _route("POST", "/gradio_api/call/v2/{name}", Guard.call_by_name, name=_NAME),
    _route("GET", "/gradio_api/call/v2/{name}/{event}", Guard.result, name=_NAME, event=_EVENT),
    _route("POST", "/gradio_api/upload", Guard.upload, "upload_id"),
    _route("GET", "/gradio_api/upload_progress", Guard.progress, "upload_id"),
    _route("GET HEAD", "/gradio_api/file={id}", Guard.file, id=rf"{TOKEN}/[^/\0]+"),
)
