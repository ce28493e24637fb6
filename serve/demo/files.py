"""Files that visitors upload, and files that the page makes for them.

Each lies in a folder of its own, whose name is 128 random bits. The file's id is `TOKEN/NAME`, and who has the id may
use the file: a visitor knows the ids of his own uploads and results, and of no others. Nothing else leads to a file,
and nothing but a regular file in such a folder has an id. Files are removed after an hour, the oldest earlier where
all together grow too large.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

AGE_S = 3600.0
FOLDER_BYTES = FILE_BYTES = 4096  # that a folder, and each file, costs beside its content: a block and an inode, about
LONGEST_NAME = 200  # bytes; file systems take 255
LEFT_ALONE = frozenset({"vibe_edit_history"})  # Gradio makes it when it is imported, and needs it to be there

TOKEN = r"[A-Za-z0-9_-]{22}"  # what `secrets.token_urlsafe(16)` gives
_ID = re.compile(rf"({TOKEN})/([^/\0]{{1,255}})")


def keep_in(folder: Path) -> Path:
    """Make `folder` the place of all files of the page. To be called before Gradio is imported, which reads it then."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


@dataclass
class _Folder:
    """owner: the address of the visitor. since: seconds, monotonic. size: bytes on the disk, about."""

    owner: str
    since: float = field(default_factory=time.monotonic)
    size: int = FOLDER_BYTES


class Files:
    """The files of one server. Methods may be called from any thread."""

    def __init__(self, root: Path, max_bytes: int, age_s: float = AGE_S) -> None:
        """Args: root: an empty folder, or that of a process that died, whose files are removed."""
        self.root = root.resolve()
        self._max_bytes, self._age_s = max_bytes, age_s
        self._folders: dict[str, _Folder] = {}  # by token, the oldest first
        self._shares = Counter[str]()  # bytes by owner
        self._lock = threading.Lock()
        self._prefix = re.compile(re.escape(f"{self.root}/") + rf"(?:{TOKEN}/)?")
        self.sweep()

    @property
    def size(self) -> int:
        """Bytes on the disk, about."""
        with self._lock:
            return self._shares.total()

    def folder(self, owner: str) -> Path:
        """A new empty folder, whose files have ids as soon as they are there. Call `count` when they are."""
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._folders[token] = _Folder(owner)
            self._shares[owner] += FOLDER_BYTES
        path = self.root / token
        self.root.mkdir(0o700, parents=True, exist_ok=True)  # whoever cleans /tmp may have removed it
        path.mkdir(0o700)
        return path

    def save(self, name: str, content: bytes | IO[bytes], owner: str) -> Path:
        """A new file under a name that was made safe. Raises OSError, as of a full disk; nothing is left then."""
        path = self.folder(owner) / safe_name(name)
        try:
            with path.open("xb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    shutil.copyfileobj(content, file, 1 << 20)
        except BaseException:
            self.remove(path.parent)
            raise
        self.count(path.parent)
        return path

    def count(self, folder: Path) -> None:
        """Count what a folder holds, and remove old ones where all together hold too much."""
        size = FOLDER_BYTES
        with suppress(FileNotFoundError):  # it was removed meanwhile
            size += sum(path.lstat().st_size + FILE_BYTES for path in folder.iterdir())
        with self._lock:
            if known := self._folders.get(folder.name):
                self._shares[known.owner] += size - known.size
                known.size = size
            removed = self._too_much()
        for token in removed:
            self._delete(token)

    def _too_much(self) -> list[str]:
        """Forget the oldest folders of whoever has most, until there is room: one visitor's flood removes his own."""
        removed: list[str] = []
        while self._shares.total() > self._max_bytes and len(self._folders) > 1:
            owner = max(self._shares, key=self._shares.__getitem__)
            removed.append(next(token for token, folder in self._folders.items() if folder.owner == owner))
            self._forget(removed[-1])
        return removed

    def _forget(self, token: str) -> None:
        if folder := self._folders.pop(token, None):
            self._shares[folder.owner] -= folder.size
            if self._shares[folder.owner] <= 0:
                del self._shares[folder.owner]

    def remove(self, folder: Path) -> None:
        """Remove a folder of `folder`."""
        with self._lock:
            self._forget(folder.name)
        self._delete(folder.name)

    def _delete(self, token: str) -> None:
        shutil.rmtree(self.root / token, ignore_errors=True)

    def id(self, path: Path) -> str:
        """The id of a file that `save` or `folder` made."""
        return f"{path.parent.name}/{path.name}"

    def path(self, id: object) -> Path | None:
        """The file of that id; None for anything else: no links, no folders, no devices, nothing outside."""
        found = _ID.fullmatch(id) if isinstance(id, str) else None
        if found is None or found[2] in (".", ".."):
            return None
        with self._lock:
            if found[1] not in self._folders:
                return None
        path = self.root / found[1] / found[2]
        try:
            return path if stat.S_ISREG(path.lstat().st_mode) else None
        except (OSError, ValueError):  # ValueError: a lone surrogate, which no file system has
            return None

    def without_folders(self, text: str) -> str:
        """A message about a file as its visitor shall read it: with the name alone."""
        return self._prefix.sub("", text)

    def sweep(self) -> None:
        """Remove what is too old, and what is not ours: uploads of a process that died, leftovers of Gradio."""
        now = time.monotonic()
        with self._lock:
            old = [token for token, folder in self._folders.items() if now - folder.since > self._age_s]
            for token in old:
                self._forget(token)
            kept = self._folders.keys() | LEFT_ALONE
        for entry in self._entries():
            if entry.name in old or (entry.name not in kept and not self._is_known(entry.name)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root) as entries:
                return list(entries)
        except FileNotFoundError:
            return []

    def _is_known(self, token: str) -> bool:
        """Whether a folder was made since the sweep began."""
        with self._lock:
            return token in self._folders


def safe_name(name: str) -> str:
    """The last part of a path that a visitor sent, of letters, digits and `._- ()` alone, so that it is no other path,
    no hidden file, no pattern and no markup; its end is kept where it is long, for the suffix.
    """
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(char if char.isalnum() or char in "._- ()" else "_" for char in last)
    return kept.encode()[-LONGEST_NAME:].decode(errors="ignore").strip(" .") or "file"
