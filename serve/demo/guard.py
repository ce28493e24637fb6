"""A guard between clients and Gradio, which passes on only what the page needs.

Gradio trusts its clients more than a public server may: it opens files by the paths in an event, fetches URLs, stores
uploads under names that follow from their content, and has about sixty routes. Therefore:

- A route is reachable only if `ROUTES` lists it.
- An event is rebuilt from the parts that are understood. A file is the id of an upload (`serve/demo/files.py`), never a
  path or a URL.
- The guard, not Gradio, receives uploads and sends files.
- The path of the files' folder is removed from all responses of Gradio.

docs/decisions/0011-page-security.md lists all routes and what they accept.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, quote, urlencode

import gradio
import orjson
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from serve.demo.cache import CachedResponse, FrontendFiles, ResponseCache
from serve.demo.files import TOKEN, FileStore
from serve.demo.sessions import Sessions
from serve.service.asgi import FormParser, HTTPError, Message, Receive, Send
from zoo.card import NAME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gradio.routes import App

FRONTEND = Path(gradio.__file__).parent / "templates" / "frontend"
MAX_EVENT_BYTES = 1_000_000  # of JSON; the largest event of the page is a drawing, 410 KB as raw pixels
MAX_EVENT_FILES = 200  # per event, and per upload
MAX_EVENT_BODIES = 8  # what all files of one event may take, in request bodies of the largest size
MAX_WATCHED_UPLOADS = 512
UPLOAD_BEGINS_S = 3.0  # if an upload has not begun so long after its progress was requested, it has ended already
MAX_UPLOAD_S = 600.0  # how long a request for progress waits

JOIN = "/gradio_api/queue/join"
SESSION = r"[A-Za-z0-9_-]{1,64}"
_PART = r"[A-Za-z0-9_@-][A-Za-z0-9_@.-]*"  # of a path: not hidden, and not `..`
FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}
INLINE_TYPES = {  # what a browser may display; any other file is a download, whatever its content
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
}
PAGE_POLICY = (  # Gradio's scripts create functions from text, and its styles are inline
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
# What other sites show for a link to the page: Gradio's describes Gradio, with an image from another host.
LINK_PREVIEW = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>')
DESCRIPTION = b"Small image classifiers: draw a digit or upload a photograph, and see what the network sees."
LINK_PREVIEW_OF_THE_PAGE = (
    b'<meta name="description" content="%b"><meta property="og:title" content="pocketzoo: small image classifiers">'
    b'<meta property="og:type" content="website"><meta property="og:description" content="%b">'
) % (DESCRIPTION, DESCRIPTION)
# Request headers that Gradio does not get:
# - x-gradio-server, x-forwarded-host: Gradio would believe them about the page's URL.
# - origin: Gradio would allow any site to read its responses.
# - accept-encoding: no path can be removed from a compressed response.
# - cookie, authorization, x-api-key: secrets that Gradio does not need.
HIDDEN_HEADERS = frozenset(
    {b"x-gradio-server", b"x-forwarded-host", b"origin", b"accept-encoding", b"cookie", b"authorization", b"x-api-key"}
)

Handler = Callable[["Guard", Request, "Client", dict[str, str]], Awaitable[None]]


@dataclass(frozen=True)
class Client:
    """The ASGI functions of a request."""

    receive: Receive
    send: Send

    async def reply(self, request: Request, response: Response) -> None:
        await response(request.scope, self.receive, self.send)


@dataclass(eq=False)
class _Upload:
    """An upload whose progress is, or may be, requested."""

    started: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Route:
    methods: tuple[str, ...]
    path: str  # as the documentation shows it
    pattern: re.Pattern[str]  # the path as a pattern for `fullmatch`
    handler: Handler
    query: frozenset[str]  # the query parameters that are passed on


class Guard:
    """ASGI application around Gradio's. See the module's docstring."""

    def __init__(
        self,
        page: App,
        files: FileStore,
        sessions: Sessions,
        max_body_bytes: int,
        frame_ancestors: tuple[str, ...] = (),
    ) -> None:
        self._policy = " ".join((PAGE_POLICY, *frame_ancestors))  # its last directive is frame-ancestors
        self._page, self._files, self._sessions = page, files, sessions
        self._max_event_file_bytes = MAX_EVENT_BODIES * max_body_bytes
        functions = page.get_blocks().fns
        self._input_kinds = {
            index: [_input_kind(block) for block in function.inputs] for index, function in functions.items()
        }
        self._functions = {
            str(function.api_name): index
            for index, function in functions.items()
            if function.api_visibility == "public"
        }
        self._folder_spellings = [path.encode() for path in _spellings(f"{files.root}/")]
        self._uploads: dict[str, _Upload] = {}
        self._cache, self._frontend = ResponseCache(), FrontendFiles(FRONTEND)
        documented = page.get_blocks().get_api_info()["named_endpoints"]
        self._parameters = {
            name: {
                parameter["parameter_name"]: parameter.get("parameter_default")
                for parameter in documented[f"/{name}"]["parameters"]
            }
            for name in self._functions
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Raises HTTPException for an unknown route or method, HTTPError for what is not allowed."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        allowed: list[str] = []
        for route in ROUTES:
            if match := route.pattern.fullmatch(scope["path"]):
                if scope["method"] in route.methods:
                    request = Request({**scope, "query_string": _filter_query(scope, route.query)}, receive)
                    await route.handler(self, request, Client(receive, send), match.groupdict())
                    return
                allowed += route.methods
        raise HTTPException(405, headers={"Allow": ", ".join(allowed)}) if allowed else HTTPException(404)

    async def asset(self, request: Request, client: Client, path_parameters: dict[str, str]) -> None:
        """A file of Gradio's frontend."""
        response = await self._frontend.response(request, path_parameters["path"])
        if response is None:
            raise HTTPException(404)
        await client.reply(request, response)

    async def page(self, request: Request, client: Client, _: dict[str, str]) -> None:
        """A response that is the same for all visitors, except for the host name in it."""
        scope, headers = request.scope, request.headers
        key = (scope["path"], scope["query_string"], headers.get("host"), headers.get("x-forwarded-proto"))
        cached = await self._cache.get(key, lambda: self._render(request))
        await client.reply(request, cached.response(request))

    async def _render(self, request: Request) -> CachedResponse:
        self._page.api_info = None  # Gradio caches it with the host name of the first request
        request.scope["method"] = "GET"
        status, headers, body = await self._call_gradio(request, request.receive)
        new_headers = {name: headers[name] for name in ("content-type", "cache-control") if name in headers}
        new_headers |= {"x-content-type-options": "nosniff", "vary": "accept-encoding"}
        if request.scope["path"] == "/":
            new_headers["content-security-policy"] = self._policy
            body = LINK_PREVIEW.sub(b"", body).replace(b"</head>", LINK_PREVIEW_OF_THE_PAGE + b"</head>", 1)
        return await asyncio.to_thread(CachedResponse.of, status, new_headers, body)

    async def stream(self, request: Request, client: Client, _: dict[str, str]) -> None:
        """A stream of events, for as long as the client listens."""
        started = False

        async def send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
            else:  # one message is one event, so no path is split
                message["body"] = self._remove_folder(message.get("body", b""))
            await client.send(message)

        try:
            await self._page(_gradio_scope(request), client.receive, send)
        except HTTPException:  # the session was forgotten while the client listened
            if not started:
                raise
            await client.send({"type": "http.response.body", "body": b""})

    async def listen(self, request: Request, client: Client, path_parameters: dict[str, str]) -> None:
        """The events of one session."""
        if request.query_params.get("session_hash", "") not in self._sessions:
            raise HTTPError(404, "This session has no events. Start one with POST /gradio_api/queue/join.")
        await self.stream(request, client, path_parameters)

    async def result(self, request: Request, client: Client, path_parameters: dict[str, str]) -> None:
        """The result of one event."""
        if not self._sessions.has_event(path_parameters["event"]):
            raise HTTPError(404, "There is no such event, or its result has already been fetched.")
        await self.stream(request, client, path_parameters)

    async def join(self, request: Request, client: Client, _: dict[str, str]) -> None:
        """An event of the page."""
        event = await self._read_json(request)
        function = event.get("fn_index")
        if not isinstance(function, int) or isinstance(function, bool) or function not in self._input_kinds:
            raise HTTPError(400, "fn_index must be the number of a function of this page. See /config.")
        await self._queue(request, client, function, event.get("data"), event.get("session_hash"))

    async def call(self, request: Request, client: Client, path_parameters: dict[str, str]) -> None:
        """An event by the name of its function, with a list of inputs."""
        function = self._function_index(path_parameters["name"])
        event = await self._read_json(request)
        await self._queue(request, client, function, event.get("data"), event.get("session_hash") or _new_session())

    async def call_by_name(self, request: Request, client: Client, path_parameters: dict[str, str]) -> None:
        """An event by the name of its function, with inputs by name."""
        function = self._function_index(path_parameters["name"])
        inputs = self._order_inputs(path_parameters["name"], await self._read_json(request))
        await self._queue(request, client, function, inputs, _new_session())

    def _function_index(self, name: str) -> int:
        if name not in self._functions:
            raise HTTPError(404, f"There is no function {name!r}. Functions: {', '.join(self._functions)}.")
        return self._functions[name]

    def _order_inputs(self, name: str, inputs: dict[str, Any]) -> list[Any]:
        """Inputs by the names in `/gradio_api/info` → a list in the function's order. Raises HTTPError."""
        defaults = self._parameters[name]
        for unknown in inputs.keys() - defaults.keys():
            raise HTTPError(400, f"There is no input {unknown[:40]!r}. Inputs: {', '.join(defaults)}.")
        return [inputs.get(name, default) for name, default in defaults.items()]

    async def _queue(self, request: Request, client: Client, function: int, data: object, session: object) -> None:
        """Check an event, and pass a rebuilt one to Gradio's queue, with nothing else from the client."""
        if not (isinstance(session, str) and re.fullmatch(SESSION, session)):
            raise HTTPError(400, "session_hash must be a name of 1 to 64 letters and digits, chosen by the client.")
        kinds = self._input_kinds[function]
        if not isinstance(data, list) or len(data) != len(kinds):
            raise HTTPError(400, f"data must be a list of the function's {len(kinds)} inputs.")
        checker = _InputChecker(self._files, self._max_event_file_bytes)
        values = [checker.check(value, kind) for value, kind in zip(data, kinds, strict=True)]
        self._sessions.admit(session)
        body = orjson.dumps({"fn_index": function, "data": values, "session_hash": session})
        messages: list[Message] = [{"type": "http.request", "body": body}]

        async def receive() -> Message:
            return messages.pop() if messages else await client.receive()

        headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-length"]
        request.scope["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
        request.scope["path"], request.scope["raw_path"] = JOIN, JOIN.encode()
        status, response_headers, content = await self._call_gradio(request, receive)
        await client.reply(request, Response(content, status, media_type=response_headers.get("content-type")))

    async def _read_json(self, request: Request) -> dict[str, Any]:
        """The JSON object in the body. Raises HTTPError, also for a form, which a page of any site could send."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPError(415, "Send the event as JSON with Content-Type: application/json.")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_EVENT_BYTES:
                raise HTTPError(
                    413,
                    f"The event is larger than {MAX_EVENT_BYTES / 1e6:g} MB. Upload files with POST "
                    "/gradio_api/upload, and send their ids.",
                    connection="close",
                )
        try:
            event = orjson.loads(body)
        except orjson.JSONDecodeError:
            event = None
        if not isinstance(event, dict):
            raise HTTPError(400, "An event must be a JSON object.")
        return event

    async def _call_gradio(self, request: Request, receive: Receive) -> tuple[int, Headers, bytes]:
        """Gradio's response. Raises ClientDisconnect if there is none because the client has left."""
        start: Message = {}
        body = bytearray()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self._page(_gradio_scope(request), receive, send)
        if not start:
            raise ClientDisconnect
        return start["status"], Headers(raw=list(start["headers"])), self._remove_folder(bytes(body))

    def _remove_folder(self, body: bytes) -> bytes:
        for path in self._folder_spellings:
            body = body.replace(path, b"")
        return body

    async def upload(self, request: Request, client: Client, _: dict[str, str]) -> None:
        """Store the files of a form. The response is the list of their ids."""
        upload_id = request.query_params.get("upload_id", "")
        upload = self._watched_upload(upload_id)
        upload.started = True
        try:
            ids = await self._store_files(request)
        except ClientDisconnect:
            return
        finally:
            upload.ended.set()
            self._uploads.pop(upload_id, None)
        await client.reply(request, JSONResponse(ids))

    async def _store_files(self, request: Request) -> list[str]:
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise HTTPError(415, "Send files as multipart/form-data, each in a field named 'files'.")
        owner = request.client.host if request.client else ""
        try:
            parser = FormParser(request.headers, request.stream(), max_files=MAX_EVENT_FILES, max_fields=10)
            form = await parser.parse_complete()
        except (MultiPartException, KeyError, ValueError) as error:
            detail = getattr(error, "message", "Content-Type has no boundary").rstrip(".")
            raise HTTPError(400, f"Cannot read the form ({detail}). Send files as multipart/form-data.") from None
        try:
            uploads = [value for value in form.getlist("files") if isinstance(value, UploadFile)]
            paths = [
                await asyncio.to_thread(self._files.save, upload.filename or "", upload.file, owner)
                for upload in uploads
            ]
        except OSError as error:
            raise HTTPError(503, f"Cannot store files ({error.strerror}). Try again later.") from None
        finally:
            await form.close()
        return [self._files.id(path) for path in paths]

    def _watched_upload(self, upload_id: str) -> _Upload:
        """The upload of that id. The upload and the request for its progress arrive in any order."""
        if not 0 < len(upload_id) <= 64 or len(self._uploads) >= MAX_WATCHED_UPLOADS:
            return _Upload()
        return self._uploads.setdefault(upload_id, _Upload())

    async def progress(self, request: Request, client: Client, _: dict[str, str]) -> None:
        """A stream with one event, sent when an upload has ended."""
        upload_id = request.query_params.get("upload_id", "")
        upload = self._watched_upload(upload_id)

        async def events() -> AsyncIterator[str]:
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(upload.ended.wait(), UPLOAD_BEGINS_S)
                if upload.started:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(upload.ended.wait(), MAX_UPLOAD_S)
            finally:
                if not upload.started and self._uploads.get(upload_id) is upload:
                    del self._uploads[upload_id]
            yield 'data: {"msg": "done"}\n\n'

        await client.reply(request, StreamingResponse(events(), media_type="text/event-stream"))

    async def file(self, request: Request, client: Client, path_parameters: dict[str, str]) -> None:
        """A file by its id: inline if it is an image, otherwise as a download."""
        path = self._files.path(path_parameters["id"])
        if path is None:
            raise HTTPError(404, "There is no such file, or it has expired. Upload it again.")
        inline_type = INLINE_TYPES.get(path.suffix.lower())
        response = FileResponse(
            path,
            media_type=inline_type or "application/octet-stream",
            filename=path.name,
            content_disposition_type="inline" if inline_type else "attachment",
            headers=FILE_HEADERS,
        )
        await client.reply(request, response)


InputKind = Literal["text", "file", "files", "flag", "model"] | frozenset[str]  # a set: one of these choices


def _input_kind(component: Any) -> InputKind:
    """What a component accepts. KeyError for a type of component that this guard does not know.

    A dropdown is a choice of models, which come and go while the server runs, so any name of a model is accepted. Names
    are looked up among the loaded models only.
    """
    if component.get_block_name() == "dropdown":
        return "model"
    if choices := getattr(component, "choices", None):
        return frozenset(value for _, value in choices)
    kinds: dict[str, InputKind] = {"html": "text", "image": "file", "file": "files", "checkbox": "flag"}
    return kinds[component.get_block_name()]


class _InputChecker:
    """Checks the inputs of one event, and counts its files."""

    def __init__(self, files: FileStore, max_bytes: int) -> None:
        self._files, self._max_bytes = files, max_bytes
        self._count = self._bytes = 0

    def check(self, value: object, kind: InputKind) -> object:
        """The input to pass to Gradio. Raises HTTPError."""
        if isinstance(kind, frozenset):
            if not isinstance(value, str) or value not in kind:
                raise HTTPError(400, f"Invalid choice {short_repr(value)}. Choose one of {', '.join(sorted(kind))}.")
            return value
        if kind == "model":
            if not isinstance(value, str) or not NAME.fullmatch(value):
                raise HTTPError(400, f"Invalid choice {short_repr(value)}. Choose the name of a model, as in /models.")
            return value
        if kind == "text":
            if isinstance(value, dict | list):
                raise HTTPError(400, "This input must be text.")
            return value
        if kind == "flag":
            if not isinstance(value, bool):
                raise HTTPError(400, "This input must be true or false.")
            return value
        if value is None:
            return None
        if kind == "file":
            return self._file(value)
        return [self._file(item) for item in (value if isinstance(value, list) else [value])]

    def _file(self, value: object) -> dict[str, Any]:
        path = self._files.path(value.get("path")) if isinstance(value, dict) else None
        if path is None:
            raise HTTPError(
                400,
                "This file is not on this server, or no longer: files expire after an hour. Upload it again. (The "
                "'path' of a file must be the id that POST /gradio_api/upload returned.)",
            )
        self._count += 1
        self._bytes += path.lstat().st_size
        if self._count > MAX_EVENT_FILES or self._bytes > self._max_bytes:
            raise HTTPError(
                413,
                f"More than {MAX_EVENT_FILES} files or {self._max_bytes / 1e6:g} MB at a time. Send fewer, or use the "
                "command `zoo predict`, which has no limit.",
            )
        return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def _new_session() -> str:
    from uuid import uuid4

    return uuid4().hex


def _filter_query(scope: Message, names: frozenset[str]) -> bytes:
    """The query string with the parameters of these names only."""
    if not names or not scope["query_string"]:
        return b""
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return urlencode([(name, value) for name, value in pairs if name in names]).encode()


def _gradio_scope(request: Request) -> Message:
    """The scope of a request without the headers that Gradio does not get."""
    return {**request.scope, "headers": [pair for pair in request.scope["headers"] if pair[0] not in HIDDEN_HEADERS]}


def _spellings(path: str) -> set[str]:
    """A path in all forms in which a response may hold it: plain, in a URL, and as both JSON encoders escape it."""
    quoted = quote(path, safe="/")
    return {path, quoted, json.dumps(path)[1:-1], orjson.dumps(path).decode()[1:-1]}


def _route(methods: str, path: str, handler: Handler, /, *query: str, **parts: str) -> Route:
    """Args:
    parts: the patterns of the names in braces in `path`.
    """
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
