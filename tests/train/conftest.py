"""Without the `train` extra the tests of train are not collected. All of them are marked `slow`."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]
