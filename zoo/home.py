"""Where pocketzoo keeps a user's own files: models, training runs and decoded data sets."""

import os
from pathlib import Path

from zoo.errors import ZooError, reason


def home() -> Path:
    """`$ZOO_HOME`, or `pocketzoo` in the user's cache folder. The folder is not created here.

    Raises:
        ZooError: neither is there.
    """
    try:
        if chosen := os.environ.get("ZOO_HOME"):
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pocketzoo"
    except RuntimeError as error:
        raise ZooError(f"There is no home folder ({reason(error)}): set ZOO_HOME to a folder of yours.") from None
