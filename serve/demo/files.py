"""Stores files that visitors upload, and files that the page makes for them.

Each upload is in a folder of its own, whose name is a token of 128 random bits. The id of a file is `TOKEN/NAME`, and
whoever has the id may use the file: a visitor knows the ids of their own uploads and results, and no others. There is
no other way to a file, and only a regular file in such a folder has an id. Files are removed after an hour, or earlier,
the oldest first, if they take too much space.
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

MAX_AGE_S = 3600.0
FOLDER_BYTES = FILE_BYTES = 4096  # what a folder, and each file, takes beside its content: about a block and an inode
MAX_NAME_BYTES = 200  # file systems accept 255
KEPT_FOLDERS = frozenset({"vibe_edit_history"})  # Gradio creates it when it is imported, and needs it

TOKEN = r"[A-Za-z0-9_-]{22}"  # the form of `secrets.token_urlsafe(16)`
_ID = re.compile(rf"({TOKEN})/([^/\0]{{1,255}})")


def set_folder(folder: Path) -> Path:
    """Make `folder` the folder of all files of the page. Call it before Gradio is imported, which reads the setting."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


@dataclass
class _Folder:
    owner: str  # the address of the visitor
    created: float = field(default_factory=time.monotonic)
    size: int = FOLDER_BYTES  # approximate bytes on the disk


class FileStore:
    """The files of one server. Methods may be called from any thread."""

    def __init__(self, root: Path, max_bytes: int, max_age_s: float = MAX_AGE_S) -> None:
        """Args:
        root: an empty folder, or the folder of a process that died, whose files are removed.
        """
        self.root = root.resolve()
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._folders: dict[str, _Folder] = {}  # by token, the oldest first
        self._owner_bytes = Counter[str]()
        self._lock = threading.Lock()
        self._prefix = re.compile(re.escape(f"{self.root}/") + rf"(?:{TOKEN}/)?")
        self.sweep()

    @property
    def size(self) -> int:
        """Approximate bytes on the disk."""
        with self._lock:
            return self._owner_bytes.total()

    def new_folder(self, owner: str) -> Path:
        """Create a folder. Files in it have ids at once. Call `update_size` after writing them."""
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._folders[token] = _Folder(owner)
            self._owner_bytes[owner] += FOLDER_BYTES
        path = self.root / token
        self.root.mkdir(0o700, parents=True, exist_ok=True)  # a cleaner of /tmp may have removed it
        path.mkdir(0o700)
        return path

    def save(self, name: str, content: bytes | IO[bytes], owner: str) -> Path:
        """Write a new file, under a safe form of its name. Raises OSError, for example if the disk is full."""
        path = self.new_folder(owner) / safe_name(name)
        try:
            with path.open("xb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    shutil.copyfileobj(content, file, 1 << 20)
        except BaseException:
            self.remove(path.parent)
            raise
        self.update_size(path.parent)
        return path

    def update_size(self, folder: Path) -> None:
        """Measure a folder, and remove old folders if all of them take too much space."""
        size = FOLDER_BYTES
        with suppress(FileNotFoundError):  # it has been removed
            size += sum(path.lstat().st_size + FILE_BYTES for path in folder.iterdir())
        with self._lock:
            if known := self._folders.get(folder.name):
                self._owner_bytes[known.owner] += size - known.size
                known.size = size
            removed = self._evict()
        for token in removed:
            self._delete(token)

    def _evict(self) -> list[str]:
        """Forget the oldest folders of the owner with the most bytes, until there is space.

        So a visitor who floods the server loses their own files.
        """
        removed: list[str] = []
        while self._owner_bytes.total() > self._max_bytes and len(self._folders) > 1:
            owner = max(self._owner_bytes, key=self._owner_bytes.__getitem__)
            removed.append(next(token for token, folder in self._folders.items() if folder.owner == owner))
            self._forget(removed[-1])
        return removed

    def _forget(self, token: str) -> None:
        if folder := self._folders.pop(token, None):
            self._owner_bytes[folder.owner] -= folder.size
            if self._owner_bytes[folder.owner] <= 0:
                del self._owner_bytes[folder.owner]

    def remove(self, folder: Path) -> None:
        """Remove a folder that `new_folder` created."""
        with self._lock:
            self._forget(folder.name)
        self._delete(folder.name)

    def _delete(self, token: str) -> None:
        shutil.rmtree(self.root / token, ignore_errors=True)

    def id(self, path: Path) -> str:
        """The id of a file in a folder of this store."""
        return f"{path.parent.name}/{path.name}"

    def path(self, id: object) -> Path | None:
        """The file of an id. None for anything else: links, folders, devices, and whatever is outside of the store."""
        match = _ID.fullmatch(id) if isinstance(id, str) else None
        if match is None or match[2] in (".", ".."):
            return None
        with self._lock:
            if match[1] not in self._folders:
                return None
        path = self.root / match[1] / match[2]
        try:
            return path if stat.S_ISREG(path.lstat().st_mode) else None
        except (OSError, ValueError):  # ValueError: a lone surrogate, which no file name has
            return None

    def hide_folders(self, text: str) -> str:
        """A message about a file, with the folder removed from its name, so that it can be shown to the visitor."""
        return self._prefix.sub("", text)

    def sweep(self) -> None:
        """Remove files that are too old, and unknown ones: uploads of a process that died, and files of Gradio."""
        now = time.monotonic()
        with self._lock:
            old = [token for token, folder in self._folders.items() if now - folder.created > self._max_age_s]
            for token in old:
                self._forget(token)
            kept = self._folders.keys() | KEPT_FOLDERS
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
        """Whether a folder was created, perhaps since the sweep began."""
        with self._lock:
            return token in self._folders


def safe_name(name: str) -> str:
    """A plain file name from a path that a visitor sent: its last part, with letters, digits and `._- ()` alone.

    So it is not another path, a hidden file, a pattern or markup. A long name loses its beginning, not its suffix.
    """
    last_part = re.split(r"[/\\]", name)[-1]
    safe = "".join(char if char.isalnum() or char in "._- ()" else "_" for char in last_part)
    return safe.encode()[-MAX_NAME_BYTES:].decode(errors="ignore").strip(" .") or "file"
