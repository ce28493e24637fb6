"""Functions for worker processes in tests. Imports little, because every worker imports it."""

import os
import signal
import time

from serve.batch.inputs import name_of


def die(*_):
    os._exit(1)


def die_of_poison(sources):
    """Crash on images named "poison", as a decoder could."""
    if any("poison" in name for name in sources if isinstance(name, str)):
        os.kill(os.getpid(), signal.SIGSEGV)
    return [(name_of(source), getattr(source, "error", None)) for source in sources]


def sleep(_):
    time.sleep(60)


def repeat(sources):
    return b"x" * len(sources[0].data)


def fail(_):
    iter(7)


def names_and_errors(sources):
    return [(name_of(source), getattr(source, "error", None)) for source in sources]


def die_of_poisoned_bytes(sources):
    """Crash on images whose bytes are "poison"."""
    if any(getattr(source, "data", None) == b"poison" for source in sources):
        os.kill(os.getpid(), signal.SIGSEGV)
    return names_and_errors(sources)
