"""Every error of the project, and how other libraries' messages are quoted.

Each class carries the exit code of the command and the HTTP status of a response. A subclass that is defined anywhere
inherits both, so there is no table of error classes.
"""

import sys
from importlib.util import find_spec
from typing import ClassVar


class ZooError(Exception):
    """Base of all errors that are raised on purpose. `str(error)` is a sentence: what happened, and what to do."""

    exit_code: ClassVar[int] = 1
    """Of the command: 1 a failed input or check, 2 wrong usage, 3 no such model, or no usable runtime or device."""
    http_status: ClassVar[int] = 500


class BadInput(ZooError):
    """An image or array that cannot be classified. Other inputs of the same call are not affected."""

    http_status = 400


class WrongUsage(ZooError):
    """Options or arguments that are invalid, or contradict each other. No work was started."""

    exit_code = 2
    http_status = 400


class SeveralDigits(BadInput):
    """An image of a number, where a single digit was expected."""


class BadData(ZooError):
    """A data set that is missing, truncated, or not the published one."""


class DataNotFound(BadData):
    """A data set that is neither in the given folder nor can be downloaded."""


class ModelNotFound(ZooError):
    """No model has that name."""

    exit_code = 3
    http_status = 404


class BadModel(ZooError):
    """Model files that are damaged, changed, or not in pocketzoo's form (docs/decisions/0001-one-file.md)."""

    exit_code = 3


class RunError(ZooError):
    """A training run cannot be started or resumed, or has not finished."""


class ExportError(ZooError):
    """A trained model failed a check of the export and was not written."""


class DeviceUnavailable(ZooError):
    """The ONNX runtime is missing or installed twice, or it cannot run on the chosen device."""

    exit_code = 3


def printable(text: str) -> str:
    """The text with unprintable characters written as escapes.

    Names from foreign files and folders may hold control characters, which a terminal would act on, direction
    overrides, and lone surrogates, which no encoding holds.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def reason(error: BaseException) -> str:
    """The first line of another library's error message, printable and at most 300 characters long.

    Without a final full stop, so that it can be quoted within a sentence.
    """
    lines = str(error).strip().splitlines()
    return printable(lines[0][:300]).rstrip(".") if lines else type(error).__name__


def not_importable(what: str, error: ImportError, extra: str) -> str:
    """The message where `what` needs packages of an extra: one is not installed, or cannot be imported."""
    name = error.name or ""
    if name in sys.stdlib_module_names:
        return f"{what} needs {name}, which this Python was built without. Use another Python."
    if isinstance(error, ModuleNotFoundError) and not ("." in name and _has_file(name.split(".")[0])):
        return f"{what} needs {name}: pip install 'pocketzoo[{extra}]'."
    return (
        f"{what} needs a package that is installed but cannot be imported ({reason(error)}). "
        f"Install it again: pip install --force-reinstall 'pocketzoo[{extra}]'."
    )


def _has_file(package: str) -> bool:
    """Whether a package is installed. Others share the name of a namespace package, such as opentelemetry's."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None
