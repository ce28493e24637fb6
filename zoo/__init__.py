"""pocketzoo: small image classifiers with numbers that anyone can check.

    >>> import zoo
    >>> model = zoo.load("mnist14k")
    >>> model.predict("seven.png").label
    '7'

load(name)       open a model of the zoo, or an ONNX file that pocketzoo exported: a Model
list_models()    the Card of every model
add(file, name)  add an ONNX image classifier of another program to your own models
Model            run(arrays), predict(images), rows(many images); its card and device
Classifier       batches of images in, Arrow tables of rows out: for Ray Data, Spark, Dask and Daft
Row, Guess       what predict returns: label, probability, corrections
Scores           what run returns: logits and probabilities
evaluate(model, folder)   measure a model on labelled images: an Evaluation
fit(folder, name)         train a model on labelled images; needs the extra `train`
Card             what is known of a model: labels, input, accuracy, training
ZooError         base of all errors of this package: BadInput, ModelNotFound, ...
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.adding.add import add
    from zoo.card import Card
    from zoo.classifier import Classifier
    from zoo.errors import BadData, BadInput, BadModel, DataNotFound, DeviceUnavailable, ModelNotFound, ZooError
    from zoo.evaluation import Evaluation, evaluate
    from zoo.loading import load
    from zoo.model import Model
    from zoo.rows import Guess, Row
    from zoo.scores import Scores
    from zoo.training import fit

__version__ = "0.1.0"

__all__ = [
    "BadData", "BadInput", "BadModel", "Card", "Classifier", "DataNotFound", "DeviceUnavailable", "Evaluation", "Guess",
    "Model", "ModelNotFound", "Row", "Scores", "ZooError", "add", "evaluate", "fit", "list_models", "load",
]  # fmt: skip

_MODULES = {  # module → the public names that it defines
    "zoo.adding.add": ("add",),
    "zoo.card": ("Card",),
    "zoo.classifier": ("Classifier",),
    "zoo.errors": ("BadData", "BadInput", "BadModel", "DataNotFound", "DeviceUnavailable", "ModelNotFound", "ZooError"),
    "zoo.evaluation": ("Evaluation", "evaluate"),
    "zoo.loading": ("load",),
    "zoo.model": ("Model",),
    "zoo.rows": ("Guess", "Row"),
    "zoo.scores": ("Scores",),
    "zoo.training": ("fit",),
}


def list_models(pattern: str = "*") -> "list[Card]":
    """The cards of all models whose name matches a shell pattern, sorted by name."""
    from zoo import registry

    return [entry.card for entry in registry.scan(pattern)]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that `import zoo` costs nothing."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
