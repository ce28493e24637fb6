"""What can go wrong, as exceptions whose message is one sentence for the person who reads it."""


class ZooError(Exception):
    """Base of every error this library raises on purpose; `str(error)` is a sentence that says what to do."""


class BadInput(ZooError):
    """An image or array that cannot be classified. Other inputs of the same call are not affected."""


class WrongUsage(ZooError):
    """What was asked for cannot be done the way it was asked; nothing was begun."""


class BadData(ZooError):
    """A data set that is missing, truncated, or not the published one."""


class DataNotFound(BadData):
    """A data set that is not where it was looked for, or cannot be fetched."""


class ModelNotFound(ZooError):
    """No model has that name."""


class BadModel(ZooError):
    """A model's files are damaged, changed, or not of our contract (docs/decisions/0001-one-file.md)."""


class DeviceUnavailable(ZooError):
    """The ONNX runtime is missing or doubled, or it cannot run on the device that was asked for."""


def reason(error: BaseException) -> str:
    """Another library's error in one line, to be quoted inside a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
