"""The program `zoo`, also as `python -m serve.cli`: settings of the process that make it start and end fast.

docs/decisions/0003-runtime.md has the effect of each.
"""

import atexit
import gc
import os
import sys
import threading
from typing import NoReturn


def program() -> NoReturn:
    """Run the command and end the process."""
    if sys.argv[1:2] == ["predict"]:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy would start a thread for each core
        gc.set_threshold(50_000)  # imports make many objects, of which almost none can be collected
    from serve.cli.main import main

    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int) and _has_only_memory_to_free():
            atexit._run_exitfuncs()
            os._exit(end.code)
        raise
    raise AssertionError("main() always exits")


def _has_only_memory_to_free() -> bool:
    """Whether an orderly end of the interpreter would only free memory, which the system does faster."""
    if threading.active_count() > 1 or "multiprocessing" in sys.modules:
        return False
    try:
        sys.stdout.flush(), sys.stderr.flush()
    except (OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    program()
