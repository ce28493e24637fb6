"""Where pocketzoo keeps a user's own files: models, training runs and decoded data sets."""

import os
from pathlib import Path


def home() -> Path:
    """`$ZOO_HOME`, or `pocketzoo` in the user's cache folder. The folder is not created here."""
    if chosen := os.environ.get("ZOO_HOME"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pocketzoo"
