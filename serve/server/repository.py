"""Loads and unloads models while the server runs: the model repository extension of the Open Inference Protocol.

Extension: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md.
Models come from the registry only (shipped, or in $ZOO_HOME), never from a path or from the request. Clients may load
and unload only with `--model-control explicit`.

The processes of a server agree through the file `repository.json` in their common folder. The process that gets a
request opens the model, keeps a copy of its file, and replaces `repository.json`, whose generation grows by one. The
others look at that file ten times a second, open the copy, and put the generation into their row of the metrics. The
request is answered when all have. Until then, some requests are answered by the old model and some by the new one. A
process that starts later, because one has died, opens what the file lists.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from weakref import WeakSet

import orjson

from serve.server.log import LOG
from serve.service.asgi import HTTPError, status_of
from serve.service.metrics import Metrics, ProcessSlots
from serve.service.models import Service
from serve.service.pool import Runner
from serve.service.settings import Settings
from zoo import registry
from zoo.atomic import replacing
from zoo.errors import BadModel, DeviceUnavailable, ModelNotFound, ZooError
from zoo.loading import load
from zoo.model import Model, onnx_bytes
from zoo.model_files import LARGEST_MODEL, read_file

MAX_MODELS = 64  # different models during the life of a server: each has a place in the metrics
MAX_LOADED_BYTES = 2**31  # of the ONNX files of all loaded models
MAX_RETIRED = 4  # replaced models that requests still use, before another one can be replaced
MAX_WAITING = 16  # requests to load or unload that wait for each other in one process
MAX_REQUEST = 65_536  # bytes of a request's JSON
POLL_S = 0.1
FOLLOW_S = 0.5  # how often, at most, the user's folder is read for the page
APPLY_S = 30.0  # in which all processes must have taken over a change


@dataclass(frozen=True)
class State:
    """What the processes agree on."""

    generation: int
    capacity: int  # of the metrics, in models
    names: list[str]  # every model that has been loaded; the order is that of the metrics
    digests: dict[str, str]  # the loaded models: full name → sha256 of the ONNX file


class StateFile:
    """The state that the processes of a server share, and copies of the files of loaded models."""

    def __init__(self, folder: Path) -> None:
        self._path, self._copies, self._lock = folder / "repository.json", folder / "models", folder / "repository.lock"

    def version(self) -> tuple[int, int]:
        """Changes whenever the state is written."""
        status = self._path.stat()
        return status.st_mtime_ns, status.st_ino

    def read(self) -> State | None:
        """The state; None if no process has written one yet."""
        try:
            return State(**orjson.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return None

    def write(self, state: State) -> None:
        with replacing(self._path) as partial:
            partial.write_bytes(orjson.dumps(asdict(state)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.name != "nt":  # the server has a single process there
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def keep(self, content: bytes, digest: str) -> None:
        """Copy a model's file, so that all processes open the same one."""
        self._copies.mkdir(mode=0o700, exist_ok=True)
        path = self._copies / digest
        if not path.exists():
            with replacing(path) as partial:
                partial.write_bytes(content)

    def has(self, digest: str) -> bool:
        """Whether there is a copy of the file of that digest."""
        return (self._copies / digest).is_file()

    def kept(self, digest: str) -> bytes:
        return read_file(self._copies / digest, LARGEST_MODEL)

    def remove_all_but(self, digests: set[str]) -> None:
        """Remove the copies of other files."""
        if self._copies.is_dir():
            for path in self._copies.iterdir():
                if path.name not in digests:
                    path.unlink(missing_ok=True)


def digest_of(runner: Runner) -> str:
    return sha256(onnx_bytes(runner.model)).hexdigest()


class Repository:
    """The models of this process, kept equal to those of the other processes.

    Attributes:
        service: serves the models.
        metrics: the row of this process.
        controlled: whether clients may load and unload models.
        follows: whether the models of the user's folder are taken over while the server runs (`follow_folder`).
    """

    def __init__(self, settings: Settings, slots: ProcessSlots) -> None:
        """Open the models: those that the settings name, or those that the other processes have by now.

        Raises:
            ModelNotFound, ZooError: as `serve.service.models.open_models`.
        """
        self._settings, self._slots = settings, slots
        self.controlled = settings.model_control == "explicit"
        self.follows = settings.demo and not self.controlled
        self._followed_at = -FOLLOW_S  # `time.monotonic()`
        self._refused: dict[str, tuple[int, int]] = {}  # size and time of files that could not be loaded, by model
        self._file = StateFile(Path(settings.folder))
        self._digests: dict[str, str] = {}
        state = self._file.read()
        self.service = Service(settings, None if state is None else self._open_all(state, {}))
        self._digests = {name: digest_of(runner) for name, runner in self.service.runners.items()}
        with self._file.locked():
            state = self._file.read() or self._create()
        self.metrics = Metrics(Path(settings.folder, "metrics"), slots.own, slots.count, state.names, state.capacity)
        self._version = (0, 0)
        self._retired: WeakSet[Runner] = WeakSet()
        self._turn, self._follow_turn, self._waiting = asyncio.Lock(), asyncio.Lock(), 0
        self._switch(state, self._open_all(state, self.service.runners))

    def _open_all(self, state: State, opened: dict[str, Runner]) -> dict[str, Runner]:
        """The models of a state. At the start of a process, one that cannot be opened is left out with a message."""
        runners: dict[str, Runner] = {}
        for name in state.digests:
            try:
                runners[name] = self._open(name, state, opened)
            except ZooError as error:
                print(f"zoo: {name}: {error} The model is not served.", file=sys.stderr)
        return runners

    def _open(self, name: str, state: State, opened: dict[str, Runner]) -> Runner:
        """A model of a state: the one that is open already, if it has the same file. Raises ZooError."""
        digest = state.digests[name]
        if name in opened and self._digests.get(name) == digest:
            return opened[name]
        if self.controlled or self._file.has(digest):  # loaded since the start
            return Runner(Model(self._file.kept(digest), self._settings.device, name))
        if name in opened:
            return opened[name]
        return Runner(load(registry.find(name).folder, self._settings.device))

    def _create(self) -> State:
        """Write the first state: the models of this process."""
        for name, runner in self.service.runners.items():
            if self.controlled:
                self._file.keep(onnx_bytes(runner.model), self._digests[name])
        names = list(self.service.runners)
        state = State(1, max(MAX_MODELS, len(names)), names, self._digests)
        self._file.write(state)
        return state

    def _switch(self, state: State, runners: dict[str, Runner]) -> None:
        """Serve these models of a state from now on."""
        self.metrics.add_models(state.names)  # before a request can use one of them
        self._retired.update(set(self.service.runners.values()) - set(runners.values()))
        self.service.replace(runners)
        self._digests = {name: state.digests[name] for name in runners}
        self.state = state
        self.metrics.set("generation", state.generation)

    # Changes by other processes

    async def catch_up(self) -> None:
        """Take over what another process has changed."""
        version = self._file.version()
        if version != self._version:
            async with self._turn:
                await asyncio.to_thread(self._apply_current)
            self._version = version

    def _apply_current(self) -> None:
        state = self._file.read()
        if state is not None and state.generation != self.state.generation:
            opened = self.service.runners
            self._switch(state, {name: self._open(name, state, opened) for name in state.digests})

    async def watch(self) -> None:
        """Take over changes until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.catch_up()
            except Exception as error:
                LOG.message(f"zoo: This process cannot take over the loaded models ({error}). Trying again.")
                await asyncio.sleep(APPLY_S / 10)

    @asynccontextmanager
    async def watch_in_background(self) -> AsyncIterator[None]:
        if not self.controlled and not (self.follows and self._slots.count > 1):
            yield
            return
        await self.catch_up()
        task = asyncio.create_task(self.watch())
        try:
            yield
        finally:
            task.cancel()

    # Changes in the user's folder

    async def follow_folder(self) -> None:
        """Serve the user's own models as they are in $ZOO_HOME/models now, as far as `--models` names them.

        New and changed ones are loaded, and those that are gone are unloaded. A model that cannot be loaded, such as
        one that is still being copied, is left out until its file changes. The page calls this when it is opened; with
        `--model-control explicit`, clients decide instead, and nothing happens.
        """
        if not self.follows:
            return
        called_at = time.monotonic()
        async with self._follow_turn:
            if self._followed_at > called_at:  # another call has looked meanwhile
                return
            await asyncio.sleep(self._followed_at + FOLLOW_S - time.monotonic())
            async with self._turn:
                self._followed_at = time.monotonic()
                await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self._follow_in_turn)))

    def _follow_in_turn(self) -> None:
        if not (registry.home() / "models").is_dir():
            return  # nothing was added yet; or a disk is away, and then nothing must be unloaded
        own = {entry.card.name: entry for entry in registry.scan(self._settings.models) if not entry.shipped}
        with self._file.locked():
            self._apply_current()
            for name, entry in own.items():
                if entry.card.file("model.onnx").sha256 != self.state.digests.get(name):
                    self._follow_model(entry)
            for name in self.state.digests.keys() - own.keys():
                if not (registry.SHIPPED_FOLDER / name).is_dir():
                    self._unload(name)

    def _follow_model(self, entry: registry.Entry) -> None:
        """Load a model, unless that has failed before and its file is the same."""
        name, file = entry.card.name, _file_version(entry.folder / "model.onnx")
        if self._refused.get(name) == file:
            return
        try:
            self._load(name)
        except ZooError as error:
            if status_of(error) != 503:
                self._refused[name] = file
            LOG.message(f"zoo: {error} The model is not served.")

    # Requests

    def extensions(self) -> list[str]:
        """The protocol's extensions that the server has."""
        return ["binary_tensor_data", "statistics", *(["model_repository"] if self.controlled else [])]

    async def index(self, only_ready: bool = False) -> list[dict[str, str]]:
        """The loaded models; where clients may load models, also those that they could load."""
        return await asyncio.to_thread(self._index, only_ready)

    def _index(self, only_ready: bool) -> list[dict[str, str]]:
        cards = {runner.model.card.name: runner.model.card for runner in self.service.runners.values()}
        loaded = set(cards)
        if self.controlled and not only_ready:
            cards = {entry.card.name: entry.card for entry in registry.scan()} | cards
        return [
            {
                "name": name,
                "version": cards[name].version,
                "state": "READY" if name in loaded else "UNAVAILABLE",
                "reason": "" if name in loaded else "not loaded",
            }
            for name in sorted(cards)
        ]

    async def load(self, name: str) -> None:
        """Load a model of the registry, or load it again. Returns when all processes serve it.

        Args:
            name: full name.
        Raises:
            HTTPError: not allowed, or a limit is reached, or not all processes serve it in time.
            ModelNotFound: the registry has no model of that name.
        """
        await self._change(self._load, name)

    async def unload(self, name: str) -> None:
        """Unload a model; nothing happens if it is not loaded. Returns when no process serves it to new requests.

        Raises:
            HTTPError: as `load`.
            ModelNotFound: neither loaded nor in the registry.
        """
        await self._change(self._unload, name)

    async def _change(self, change: Callable[[str], None], name: str) -> None:
        self.check_controlled()
        if self._waiting >= MAX_WAITING:
            raise HTTPError(503, f"{MAX_WAITING} other changes are waiting. Try again in a moment.", retry_after="1")
        self._waiting += 1
        try:
            # Shielded: a client that leaves must not release the turn while the thread works
            generation = await asyncio.shield(asyncio.ensure_future(self._take_turn(change, name)))
        finally:
            self._waiting -= 1
        await self._wait_for_others(generation, name)

    async def _take_turn(self, change: Callable[[str], None], name: str) -> int:
        async with self._turn:
            await asyncio.to_thread(self._change_in_turn, change, name)
            return self.state.generation

    def check_controlled(self) -> None:
        """Raises HTTPError 403 if clients may not load models."""
        if not self.controlled:
            raise HTTPError(
                403, "Loading and unloading is not allowed. Start the server with --model-control explicit."
            )

    def _change_in_turn(self, change: Callable[[str], None], name: str) -> None:
        with self._file.locked():
            self._apply_current()
            if not self._late():
                self._file.remove_all_but(set(self.state.digests.values()))
            change(name)

    def _load(self, name: str) -> None:
        entry = _find(name)
        if entry.card.name != name:
            raise ModelNotFound(f"{name!r} is not a full name. Load {entry.card.name!r}.")
        self._check_limits(name, entry.card.file("model.onnx").size_bytes)
        try:
            runner = Runner(load(entry.folder, self._settings.device))
        except (BadModel, DeviceUnavailable) as error:
            raise HTTPError(400, _without_home(f"{name} cannot be loaded: {error}")) from None
        content = onnx_bytes(runner.model)
        digest = sha256(content).hexdigest()
        self._file.keep(content, digest)
        names = self.state.names if name in self.state.names else [*self.state.names, name]
        state = replace(self.state, generation=self.state.generation + 1, names=names)
        state = replace(state, digests={**state.digests, name: digest})
        self._file.write(state)
        self._switch(state, {**self.service.runners, name: runner})
        LOG.message(f"zoo: Loaded {name} (version {runner.model.card.version}, sha256 {digest[:12]}).")

    def _check_limits(self, name: str, size: int) -> None:
        """Raises HTTPError if a model of that size must not be loaded now."""
        names = self.state.names
        if name not in names and len(names) >= self.state.capacity:
            raise HTTPError(409, f"This server has loaded {len(names)} different models, its limit. Restart it.")
        others = sum(len(onnx_bytes(runner.model)) for key, runner in self.service.runners.items() if key != name)
        if others + size > MAX_LOADED_BYTES:
            raise HTTPError(409, f"All models together would exceed {MAX_LOADED_BYTES:,} bytes. Unload others first.")
        if len(self._retired) >= MAX_RETIRED:
            gc.collect()  # finished requests may still hold them, in cycles that are seldom collected
        if len(self._retired) >= MAX_RETIRED:
            message = f"Requests still use {len(self._retired)} replaced models. Try again in a moment."
            raise HTTPError(503, message, retry_after="1")

    def _unload(self, name: str) -> None:
        if name not in self.service.runners:
            if _find(name).card.name != name:
                raise ModelNotFound(f"{name!r} is not a full name.")
            return
        digests = {key: digest for key, digest in self.state.digests.items() if key != name}
        state = replace(self.state, generation=self.state.generation + 1, digests=digests)
        self._file.write(state)
        self._switch(state, {key: runner for key, runner in self.service.runners.items() if key != name})
        LOG.message(f"zoo: Unloaded {name}.")

    async def _wait_for_others(self, generation: int, name: str) -> None:
        """Raises HTTPError 503 if another process has not taken over a change in time."""
        until = time.monotonic() + APPLY_S
        while late := self._late(generation):
            if time.monotonic() > until:
                raise HTTPError(
                    503,
                    f"{len(late)} of {self._slots.count} processes have not taken over the change of {name} within "
                    f"{APPLY_S:g} s. They keep trying; see the server's log.",
                    retry_after="5",
                )
            await asyncio.sleep(POLL_S / 4)

    def _late(self, generation: int | None = None) -> list[int]:
        """Processes that are up and have not taken over that generation; by default the current one."""
        wanted = self.state.generation if generation is None else generation
        return [
            slot
            for slot in range(self._slots.count)
            if slot != self._slots.own
            and self.metrics.started(slot)
            and self.metrics.value(slot, "generation") < wanted
            and self._slots.alive(slot)
        ]


def _find(name: str) -> registry.Entry:
    """A model of the registry. Raises ModelNotFound, and HTTPError 400 for one whose card is damaged."""
    try:
        return registry.find(name)
    except BadModel as error:
        raise HTTPError(400, _without_home(f"{name} cannot be loaded: {error}")) from None


def _file_version(path: Path) -> tuple[int, int]:
    """Size and time of a file; (0, 0) if there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _without_home(message: str) -> str:
    """A message without the path of the user's folder, which clients need not know."""
    return message.replace(str(registry.home()), "$ZOO_HOME").replace(str(registry.SHIPPED_FOLDER), "models")


def check_parameters(body: bytes, allowed: tuple[str, ...]) -> dict[str, Any]:
    """The JSON object of a request to load, unload or list models. Raises HTTPError 400 for unknown parameters."""
    try:
        request = orjson.loads(body or b"{}")
    except ValueError:
        raise HTTPError(400, "The request is not JSON.") from None
    parameters = request.get("parameters", {}) if isinstance(request, dict) else None
    if not isinstance(request, dict) or not isinstance(parameters, dict):
        raise HTTPError(400, "The request must be a JSON object, and its 'parameters' too.")
    reject_parameters(parameters, allowed)
    return request


def reject_parameters(names: Any, allowed: tuple[str, ...]) -> None:
    """Raises HTTPError 400 for a parameter that is not supported, such as a model's files."""
    for name in names:
        if name not in allowed:
            raise HTTPError(
                400,
                f"The parameter {str(name)[:100]!r} is not supported. Models are loaded from the registry, unchanged.",
            )
