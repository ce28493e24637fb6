"""fit(): the only way from zoo to train, which needs torch and is imported when it is called."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.card import Card
from zoo.errors import WrongUsage, reason

PACKAGE = Path(__file__).parents[1] / "train" / "__init__.py"


def fit(folder: Any, name: str, **options: Any) -> Card:
    """Train a model on labelled images and register it in $ZOO_HOME/models; options as in `train.fit.run.fit`.

    Raises:
        WrongUsage: the extra `train` is not installed, or an option or the name cannot be used.
        BadData: the images do not suffice to train a model.
    """
    card: Card = module("fit.run").fit(folder, name, **options)
    return card


def module(name: str) -> ModuleType:
    """Import `train.NAME` of this installation, also where the working directory holds another train.py.

    Raises:
        WrongUsage: the packages that training needs are not installed, or another `train` is already imported.
    """
    from importlib import import_module

    loaded = sys.modules.get("train")
    if loaded is not None and Path(loaded.__file__ or "").resolve() != PACKAGE.resolve():
        raise WrongUsage(
            f"Another module named train is imported ({loaded.__file__}): call zoo.fit in a process without it, or use "
            "the command `zoo fit`."
        )
    if loaded is None and PACKAGE.exists():
        spec = spec_from_file_location("train", PACKAGE, submodule_search_locations=[str(PACKAGE.parent)])
        assert spec is not None
        assert spec.loader is not None
        sys.modules["train"] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules["train"])
    try:
        return import_module(f"train.{name}")
    except ImportError as error:
        raise WrongUsage(
            f"Training needs more packages ({reason(error)}): pip install 'pocketzoo[cpu,train]'."
        ) from None
