"""Object stores: `s3://`, `gs://` and `hf://` addresses → lists of objects and their bytes, through fsspec.

Each kind of store has its library (s3fs, gcsfs, huggingface_hub), which finds credentials and endpoints in its own
environment variables and files, and repeats requests that failed in a way that may pass (503, a reset connection, a
timeout) after growing pauses. Here are the limits on time and memory, and one error message for each cause.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from functools import cache, partial
from typing import Any, TypeVar

from serve.batch.archives import Bounds, Unreadable, is_hidden
from serve.batch.inputs import StoredObject
from serve.batch.remote import LazyArchive, RemoteFile, remote_archive
from zoo.errors import BadInput, ZooError, reason
from zoo.images.read import Named

CONNECTIONS = 32  # per process
ATTEMPTS = 5
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 20.0  # without any byte
TOTAL_TIMEOUT_S = 120.0  # of an object, or of a piece of one, retries included
MAX_BYTES = Bounds().member_bytes

T = TypeVar("T")


class StoreUnavailable(ZooError):
    """An object store cannot be reached, or refuses the credentials."""

    exit_code = 3


@cache
def filesystem(protocol: str) -> Any:
    """The file system of a store, one per process. Raises BadInput if its package is not installed."""
    try:
        import fsspec

        options: dict[str, Any] = {"use_listings_cache": False}
        if protocol == "s3":
            retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
            options["config_kwargs"] = {
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": READ_TIMEOUT_S,
                "max_pool_connections": CONNECTIONS,
                "retries": retries,
            }
        store = fsspec.filesystem(protocol, **options)
    except ImportError:
        raise BadInput(f"{protocol}:// needs more packages: pip install 'pocketzoo[cloud]'.") from None
    if protocol == "s3":
        store.retries = ATTEMPTS  # of a body that ends early; botocore repeats everything else
    return store


def locate(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it. Raises BadInput."""
    protocol, _, path = address.partition("://")
    path = path.strip("/") if protocol.lower() != "hf" else path.lstrip("/")
    if not path:
        raise BadInput(f"{address} names no bucket: write {protocol}://BUCKET/KEY.")
    return filesystem({"gcs": "gs", "s3a": "s3"}.get(protocol.lower(), protocol.lower())), path


# Requests. All of them run on fsspec's event loop, in a thread of its own.


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    from fsspec.asyn import get_loop

    return asyncio.run_coroutine_threadsafe(work, get_loop())


async def call(store: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of a file system, asynchronous or not, in limited time."""
    if store.async_impl:
        work = getattr(store, f"_{method}")(*arguments, **options)
    else:
        work = asyncio.to_thread(getattr(store, method), *arguments, **options)
    return await asyncio.wait_for(work, TOTAL_TIMEOUT_S)


async def _read(address: str, start: int, end: int) -> bytes:
    """Raises BadInput."""
    store, path = locate(address)
    try:
        return bytes(await call(store, "cat_file", path, start=start, end=end))
    except BadInput:
        raise
    except Exception as error:  # each library has classes of its own
        cause = describe(error)
        if "InvalidRange" in cause or "not satisfiable" in cause.lower():  # the object is empty or has shrunk
            return b""
        raise BadInput(f"{address} cannot be read ({cause}).") from None


def describe(error: BaseException) -> str:
    """The cause of a failed request, in words."""
    cause = error.__cause__ if isinstance(error, OSError) and error.__cause__ else error
    text, name = reason(cause), type(cause).__name__
    if isinstance(error, TimeoutError) or "Timeout" in name:
        return "no answer in time"
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return "no credentials"
    return text or name


def fetch_objects(objects: list[StoredObject]) -> list[Named | Unreadable]:
    """Read objects, `CONNECTIONS` at a time; the bytes of each, or an error, in order."""
    return submit(_fetch_all(objects)).result()


async def _fetch_all(objects: list[StoredObject]) -> list[Named | Unreadable]:
    slots = asyncio.Semaphore(CONNECTIONS)

    async def fetch(one: StoredObject) -> Named | Unreadable:
        if one.size is not None and one.size > MAX_BYTES:
            return _too_large(one.name)
        if one.size == 0:
            return Named(one.name, b"")
        try:
            async with slots:
                data = await _read(one.name, 0, MAX_BYTES + 1 if one.size is None else one.size)
        except BadInput as error:
            return Unreadable(one.name, str(error))
        if one.size is not None and len(data) != one.size:
            return Unreadable(one.name, f"{one.name} cannot be read ({len(data):,} of {one.size:,} bytes).")
        return Named(one.name, data) if len(data) <= MAX_BYTES else _too_large(one.name)

    return await asyncio.gather(*map(fetch, objects))


def _too_large(name: str) -> Unreadable:
    return Unreadable(name, f"{name} has more than {MAX_BYTES:,} bytes, the limit for an image.")


def starts_of(objects: Iterable[StoredObject], size: int) -> list[bytes]:
    """The first bytes of objects; b"" for those that cannot be read."""

    async def read_all() -> list[bytes]:
        slots = asyncio.Semaphore(CONNECTIONS)

        async def start(one: StoredObject) -> bytes:
            async with slots:
                try:
                    return await _read(one.name, 0, min(size, one.size or size)) if one.size != 0 else b""
                except BadInput:
                    return b""

        return await asyncio.gather(*map(start, objects))

    return submit(read_all()).result()


def remote_file(stored: StoredObject) -> RemoteFile:
    """An object that is read in pieces."""
    assert stored.size is not None
    return RemoteFile(stored.name, stored.size, lambda start, end: submit(_read(stored.name, start, end)))


def lazy_archive(stored: StoredObject, bounds: Bounds, column: str | None) -> LazyArchive:
    """The archive in an object, which is opened when its images are needed."""
    return LazyArchive(stored.name, bounds, lambda: remote_archive(remote_file(stored), bounds, column), stored)


# Which objects


def list_objects(address: str) -> list[StoredObject]:
    """The objects that an address or pattern means, sorted by name; one object, or all below a prefix.

    Names with a component that begins with a dot are left out, as in folders.

    Raises:
        BadInput: There are none, or no such bucket.
        StoreUnavailable: No connection, or wrong credentials.
    """
    from fsspec.utils import glob_translate

    store, path = locate(address)
    magic = re.search(r"[*?\[]", path)
    top = path[: magic.start()].rpartition("/")[0] if magic else path.rstrip("/")
    matches: Callable[[str], object] = re.compile(glob_translate(path)).match if magic else lambda name: True
    if magic and not top:
        raise BadInput(f"{address} has a wildcard in the bucket's name: name the bucket.")
    protocol = address.partition("://")[0]
    found = _request(address, partial(_find, store, top))
    objects = [
        StoredObject(f"{protocol}://{name}", entry.get("size"), _version(entry))
        for name, entry in sorted(found.items())
        if entry["type"] == "file"
        and matches(name)
        and not any(is_hidden(part) for part in name[len(top) :].split("/"))
        and not (entry.get("size") == 0 and name.endswith("/"))
    ]
    if not objects and not found and magic is None and "/" in path and not address.endswith("/"):
        _check_bucket(address, store, path)
        return [StoredObject(address, None)]  # reading it gives the error of its row
    if not objects:
        _check_bucket(address, store, path)
        raise BadInput(f"{address} matches no objects: check the prefix or the pattern.")
    return objects


async def _find(store: Any, top: str) -> dict[str, dict[str, Any]]:
    try:
        return dict(await call(store, "find", top, detail=True))
    except FileNotFoundError:
        return {}


def _check_bucket(address: str, store: Any, path: str) -> None:
    if store.protocol == "hf" or "hf" in store.protocol:
        return
    bucket = path.split("/")[0]

    async def exists() -> bool:
        try:
            await call(store, "ls", bucket, detail=False)
        except FileNotFoundError:
            return False
        return True

    if not _request(address, exists):
        raise BadInput(f"{address} cannot be listed: there is no bucket {bucket}.")


def _request(address: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a request that all others depend on. Raises StoreUnavailable."""
    try:
        return submit(work()).result()
    except ZooError:
        raise
    except Exception as error:
        cause = describe(error)
        if isinstance(error, PermissionError) or cause == "no credentials" or "redential" in cause:
            raise StoreUnavailable(f"{address}: the store refuses access ({cause}). Check the credentials.") from None
        raise StoreUnavailable(
            f"{address}: the store cannot be reached ({cause}). Check the network and the endpoint."
        ) from None


def _version(entry: dict[str, Any]) -> str:
    """What changes with an object's content: an ETag, a hash or a time."""
    keys = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "updated", "mtime")
    return next((str(entry[key]) for key in keys if entry.get(key)), "")
