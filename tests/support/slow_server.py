"""`zoo` with an injected fault: images of certain widths block a thread, hold the interpreter's lock, or raise."""

import re
import time

from zoo.images import prepare

SLEEPS, HOLDS, ENDS, FAILS = 31, 33, 35, 37  # widths in pixels
correct = prepare.CORRECTORS["digit"]


def faulty(pixels, *others):
    width = pixels.shape[1]
    if width == SLEEPS:
        time.sleep(3600)
    if width == HOLDS:
        re.match("(a+)+$", "a" * 60 + "b")  # in C, without releasing the interpreter's lock
    if width == ENDS:
        raise SystemExit
    if width == FAILS:
        raise KeyError("a fault")
    return correct(pixels, *others)


if __name__ in ("__main__", "__mp_main__"):  # in the server's processes, not in the process of the tests
    prepare.CORRECTORS["digit"] = faulty

if __name__ == "__main__":
    from serve.cli.main import main

    main()
