"""Write the output file to an object store, so that it appears whole or not at all and a run can be resumed anywhere.

The parts of `serve/batch/resume.py` are written to a temporary folder. Each finished part is uploaded to `OUT.parts/`
in the store, rows first, metadata second, so that another machine can resume the run. OUT itself is one upload at the
end: stores show an object only when its upload is complete.

`OUT.parts/lock` is created by a conditional request (`If-None-Match: *`, on Google Cloud Storage a generation of 0), so
that of two runs only one starts.
"""

import json
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from serve.batch.formats import Encoding
from serve.batch.pipeline import Block
from serve.batch.resume import PART_FILE, OutputError, Parts
from serve.batch.stores import StoreUnavailable, call, describe, locate, submit
from zoo.errors import BadInput, WrongUsage, ZooError


class StoredFiles:
    """A few files in a folder of a store."""

    def __init__(self, address: str) -> None:
        """Raises WrongUsage or StoreUnavailable."""
        self.address = address.rstrip("/")
        if self.address.lower().startswith("hf://"):
            raise WrongUsage(f"Cannot write {address}: repositories are only read. Use s3:// or gs://, or a file.")
        try:
            self._store, self._path = locate(self.address)
        except BadInput as error:
            raise WrongUsage(str(error)) from None
        if "/" not in self._path:
            raise WrongUsage(f"Cannot write {address}: it names a bucket and no object.")

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return submit(call(self._store, method, *arguments, **options)).result()

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    def list(self) -> list[str]:
        """Names of the files, sorted. Raises StoreUnavailable."""
        try:
            names = self._call("find", self._path)
        except FileNotFoundError:
            names = []
        except Exception as error:
            raise StoreUnavailable(f"Cannot write {self.address} ({describe(error)}). Check the credentials.") from None
        return sorted(name[len(self._path) + 1 :] for name in names if name != self._path)

    def exists(self, name: str = "") -> bool:
        return bool(self._call("exists", self._at(name)))

    def read(self, name: str) -> bytes:
        return bytes(self._call("cat_file", self._at(name)))

    def write(self, name: str, content: bytes, exclusive: bool = False) -> None:
        options = {"mode": "create"} if exclusive else {}
        self._call("pipe_file", self._at(name), content, **options)

    def upload(self, path: Path, name: str = "") -> None:
        self._call("put_file", str(path), self._at(name))

    def download(self, name: str, path: Path) -> None:
        self._call("get_file", self._at(name), str(path))

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._call("rm_file", self._at(name))


class Lock:
    """An object that only one run can create."""

    NAME = "lock"

    def __init__(self, files: StoredFiles, name: str = NAME) -> None:
        """Raises WrongUsage if another run has it."""
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S%z")}
        self._name = name
        self._files, self._content = files, json.dumps(owner | {"id": uuid.uuid4().hex}).encode()
        for is_last in (False, True):
            try:
                files.write(self._name, self._content, exclusive=True)
            except FileNotFoundError:
                raise StoreUnavailable(f"Cannot write {files.address}: there is no such bucket.") from None
            except Exception as error:
                if not self._is_own():  # it is if the answer to a first attempt was lost
                    self._explain(error, is_last)
                    continue
            break
        if not self.is_held():  # a store that does not know conditional requests
            raise WrongUsage(f"Another run is writing to {files.address}: choose another output file.")

    def is_held(self) -> bool:
        try:
            return self._files.read(self._name) == self._content
        except FileNotFoundError:
            return False

    def _is_own(self) -> bool:
        with suppress(Exception):
            return self.is_held()
        return False

    def release(self) -> None:
        with suppress(Exception):
            if self.is_held():
                self._files.remove(self._name)

    def _explain(self, error: Exception, is_last: bool) -> None:
        """Remove the lock of a run of this machine that has ended; for all other causes raise an error."""
        try:
            owner = dict(json.loads(self._files.read(self._name)))
        except (FileNotFoundError, ValueError, TypeError):
            raise StoreUnavailable(f"Cannot write {self._files.address} ({describe(error)}).") from None
        except Exception:
            raise StoreUnavailable(
                f"Cannot write {self._files.address} ({describe(error)}). Check the credentials."
            ) from None
        if not is_last and owner.get("host") == socket.gethostname() and not _is_running(owner.get("pid")):
            self._files.remove(self._name)
            return
        address = f"{self._files.address}/{self._name}"
        raise WrongUsage(
            f"Another run (process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')}) is writing "
            f"to {self._files.address}: wait for it. If it was killed, delete {address} and add --resume."
        )


def _is_running(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        pass
    return True


class StoredParts(Parts):
    """Like `Parts`, for an output file in an object store."""

    def __init__(self, address: str, encoding: Encoding, options: dict[str, Any], resume: bool, width: int = 0) -> None:
        """As for `Parts`. Raises StoreUnavailable too."""
        self.address = address
        self._files, self._target = StoredFiles(f"{address}.parts"), StoredFiles(address)
        names = self._files.list()
        for name in names:  # never used as a local path or deleted: others may be able to write there
            if not PART_FILE.fullmatch(name):
                raise WrongUsage(f"{self.saved_in} contains {name}, which is not part of a run: choose another output.")
        self._store_lock = Lock(self._files)
        try:
            self._staging = tempfile.TemporaryDirectory(prefix="zoo-")
            out = Path(self._staging.name) / "rows"
            if "job.json" not in names:
                if resume and self._target.exists():
                    raise WrongUsage(
                        f"Nothing to resume: {address} is complete. To write it again, leave out --resume."
                    )
            elif resume:
                folder = out.with_name(f"{out.name}.parts")
                folder.mkdir()
                for name in names:
                    if name != Lock.NAME:
                        self._guard(self._files.download, name, folder / name)
            else:
                raise WrongUsage(
                    f"{self.saved_in} contains an unfinished run: add --resume, or delete everything below it."
                )
            super().__init__(out, encoding, options, resume, width)
            self._uploaded = len(self.done)
            kept = {
                "job.json",
                Lock.NAME,
                *(f"{n:06}.{kind}" for n in range(len(self.done)) for kind in ("rows", "json")),
            }
            for name in names:
                if name not in kept:
                    self._guard(self._files.remove, name)
            self._guard(self._files.upload, self._options_path, "job.json")
        except BaseException:
            self.release()
            raise

    @property
    def saved_in(self) -> str:
        return self._files.address

    def write(self, block: Block) -> None:
        super().write(block)
        self._upload_parts()

    def close_part(self) -> None:
        super().close_part()
        self._upload_parts()

    def finish(self) -> None:
        super().finish()
        if not self._store_lock.is_held():
            raise OutputError(f"{self.saved_in}/{Lock.NAME} was removed or replaced: another run may be writing.")
        if self.out.exists():
            self._guard(self._target.upload, self.out)
        self._guard(self._files.remove, "job.json")
        for name in self._files.list():
            if name != Lock.NAME and PART_FILE.fullmatch(name):
                self._guard(self._files.remove, name)
        self.release()

    def release(self) -> None:
        """Let other runs write to the output; remove the temporary folder."""
        self._store_lock.release()
        if staging := getattr(self, "_staging", None):
            staging.cleanup()

    def _upload_parts(self) -> None:
        while self._uploaded < len(self.done):
            for kind in ("rows", "json"):
                path = self._path(self._uploaded, kind)
                self._guard(self._files.upload, path, path.name)
            self._uploaded += 1

    def _guard(self, request: Callable[..., None], *arguments: Any) -> None:
        """Raise OutputError if a request fails."""
        try:
            request(*arguments)
        except ZooError:
            raise
        except Exception as error:
            raise OutputError(
                f"Cannot write {self.address} ({describe(error)}). Finished parts are in {self.saved_in}: "
                "continue with --resume."
            ) from None
