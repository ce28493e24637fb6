"""What can go wrong, as exceptions whose message is one sentence for the person who reads it.

Every class carries the exit code of the command and the status of an HTTP response, so that a subclass defined
anywhere has both without an entry in a table.
"""

from typing import ClassVar


class ZooError(Exception):
    """Base of every error this library raises on purpose; `str(error)` is a sentence that says what to do.

    exit_code: of the command: 1 an input or a check failed, 2 wrong usage, 3 model, runtime or device not available.
    http_status: of a response.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500


class BadInput(ZooError):
    """An image or array that cannot be classified. Other inputs of the same call are not affected."""

    http_status = 400


class WrongUsage(ZooError):
    """Options or arguments that do not fit together, or name nothing; no work was started."""

    exit_code = 2
    http_status = 400


class BadData(ZooError):
    """A data set that is missing, truncated, or not the published one."""


class DataNotFound(BadData):
    """A data set that is not where it was looked for, or cannot be fetched."""


class ModelNotFound(ZooError):
    """No model has that name."""

    exit_code = 3
    http_status = 404


class BadModel(ZooError):
    """A model's files are damaged, changed, or not of our contract (docs/decisions/0001-one-file.md)."""

    exit_code = 3


class RunError(ZooError):
    """A training run cannot be started or resumed, or has not finished."""


class ExportError(ZooError):
    """A trained model failed a check of the export and was not written."""


class DeviceUnavailable(ZooError):
    """The ONNX runtime is missing or installed twice, or it cannot run on the chosen device."""

    exit_code = 3


def printable(text: str) -> str:
    """The text with everything that a terminal could act on, or no encoding holds, written as an escape.

    Names from foreign files and folders may hold control characters, direction overrides and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def reason(error: BaseException) -> str:
    """Another library's error in one printable line of at most 300 characters, to be quoted in a sentence of ours."""
    lines = str(error).strip().splitlines()
    return printable(lines[0][:300]).rstrip(".") if lines else type(error).__name__
