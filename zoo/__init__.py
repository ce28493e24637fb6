"""pocketzoo: small image classifiers with numbers that anyone can check.

    >>> import zoo
    >>> model = zoo.load("mnist14k")
    >>> model.predict("seven.png").label
    '7'

`load` opens a model, `list_models` tells which there are; `Model`, `Row`, `Scores` and `Card` are what they give;
everything that is raised on purpose is a `ZooError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.card import Card
    from zoo.errors import BadData, BadInput, BadModel, DataNotFound, DeviceUnavailable, ModelNotFound, ZooError
    from zoo.model import Guess, Model, Row, Scores, load

__version__ = "0.1.0"

__all__ = [
    "BadData", "BadInput", "BadModel", "Card", "DataNotFound", "DeviceUnavailable", "Guess", "Model", "ModelNotFound",
    "Row", "Scores", "ZooError", "list_models", "load",
]  # fmt: skip

_HOME_OF = {
    "zoo.card": ("Card",),
    "zoo.errors": ("BadData", "BadInput", "BadModel", "DataNotFound", "DeviceUnavailable", "ModelNotFound", "ZooError"),
    "zoo.model": ("Guess", "Model", "Row", "Scores", "load"),
}


def list_models(pattern: str = "*") -> "list[Card]":
    """The cards of all models whose name matches a shell pattern, sorted by name."""
    from zoo import registry

    return [entry.card for entry in registry.scan(pattern)]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that `import zoo` costs nothing."""
    for module, names in _HOME_OF.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
