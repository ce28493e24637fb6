"""Files that people upload and take away: in a folder of the server's own, for an hour or two, and gone with it.

Left to itself Gradio has one folder for all servers of a machine. It removes the files that it knows of; uploads that
broke off and empty folders it forgets.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

CLEANED = (3600, 3600)  # seconds: how often Gradio removes files, and how old they are then
FORGOTTEN_S = 7200  # after which it has had its turn


def keep_in(folder: Path) -> Path:
    """Where Gradio keeps files; to be said before it is imported, for then it already makes a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def new_folder(purpose: str) -> Path:
    """For files that the page shows or gives away."""
    return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=os.environ["GRADIO_TEMP_DIR"]))


async def sweep(folder: Path) -> None:
    """Remove what Gradio has forgotten, now and then, but nothing that is there already: the examples."""
    stay = set(folder.rglob("*"))
    while True:
        await asyncio.sleep(CLEANED[0])
        await asyncio.to_thread(_sweep, folder, stay)


def _sweep(folder: Path, stay: set[Path]) -> None:
    for path in sorted(set(folder.rglob("*")) - stay, reverse=True):  # a folder after what it holds
        with suppress(OSError):  # it is not empty, or has just been removed
            if time.time() - path.lstat().st_ctime > FORGOTTEN_S:
                path.rmdir() if path.is_dir() else path.unlink()
