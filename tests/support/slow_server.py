"""The command with a fault put in: pictures of some widths take for ever, hold the interpreter, or end the thread."""

import re
import time

from zoo.images import prepare

SLEEPS, HOLDS, ENDS, FAILS = 31, 33, 35, 37  # pixels
correct = prepare.CORRECTORS["digit"]


def faulty(pixels, *others):
    width = pixels.shape[1]
    if width == SLEEPS:
        time.sleep(3600)
    if width == HOLDS:
        re.match("(a+)+$", "a" * 60 + "b")  # in C, without giving up the interpreter's lock
    if width == ENDS:
        raise SystemExit
    if width == FAILS:
        raise KeyError("a fault")
    return correct(pixels, *others)


if __name__ in ("__main__", "__mp_main__"):  # in the server's processes, and not in the tests' own
    prepare.CORRECTORS["digit"] = faulty

if __name__ == "__main__":
    from serve.cli.main import main

    main()
