"""The zoo: finds models by scanning cards. A model is a folder with a card.json and a model.onnx, not code.

Shipped models lie in `zoo/models/`, the user's own in `$ZOO_HOME/models/`. Shipped names win: nothing in a user's
folder can take one. A bare architecture (`mnist14k`) means its recipe marked `default` (`mnist14k.notes`).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from zoo.card import Card
from zoo.errors import BadModel, ModelNotFound, reason
from zoo.home import home

SHIPPED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Entry:
    """A model that the zoo knows: its card, and the folder that holds its files."""

    card: Card
    folder: Path


def scan(pattern: str = "*") -> list[Entry]:
    """All models whose name or architecture matches a shell pattern, sorted by name, but for `damaged()` ones."""
    entries = [entry for entry in _survey() if isinstance(entry, Entry)]
    return [
        entry
        for entry in entries
        if fnmatchcase(entry.card.name, pattern) or fnmatchcase(entry.card.architecture, pattern)
    ]


def damaged() -> list[BadModel]:
    """What is wrong with the models that cannot be listed, each as its sentence."""
    return [problem for problem in _survey() if isinstance(problem, BadModel)]


def find(name: str) -> Entry:
    """The model of that full name, or an architecture's default one.

    Raises:
        ModelNotFound: with the names that come nearest.
    """
    for folder in (SHIPPED / name, home() / "models" / name):
        if "/" not in name and "\\" not in name and os.path.isfile(folder / "card.json"):
            return _entry(folder)
    of_architecture = [entry for entry in _survey(name) if isinstance(entry, Entry)]
    shipped_first = sorted(of_architecture, key=lambda entry: (entry.folder.parent != SHIPPED, not entry.card.default))
    if shipped_first and (shipped_first[0].card.default or len(shipped_first) == 1):
        return shipped_first[0]
    raise ModelNotFound(not_found(name, [entry.card.name for entry in scan()]))


def not_found(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    architectures = {full.split(".")[0] for full in known} - {name}
    close = get_close_matches(name.lower(), [*architectures, *known], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "`zoo list` shows all models."
    return f"There is no model {name!r}: {hint}"


def _survey(architecture: str | None = None) -> list[Entry | BadModel]:
    """What the cards say, of all models or of one architecture's, sorted by the folders' names.

    A shipped model stands for an own one of its name.
    """
    cards = [card for parent in (home() / "models", SHIPPED) for card in _cards(parent)]
    folders = {card.parent.name: card.parent for card in cards}
    if architecture is not None:
        folders = {name: folder for name, folder in folders.items() if name.split(".")[0] == architecture}
    found: list[Entry | BadModel] = []
    for name in sorted(folders):
        try:
            found.append(_entry(folders[name]))
        except BadModel as problem:
            found.append(problem)
    return found


def _cards(parent: Path) -> Iterator[Path]:
    """Folders whose name begins with a dot are models in the making."""
    return (card for card in parent.glob("*/card.json") if not card.parent.name.startswith("."))


def _entry(folder: Path) -> Entry:
    path = folder / "card.json"
    try:
        card = Card.from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadModel(f"{path} cannot be read ({reason(error)}): get the model again.") from None
    if card.name != folder.name:
        raise BadModel(f"{path} says that it is {card.name!r}: the folder must have the model's name.")
    card.file("model.onnx")  # a card that lists no model is damaged
    return Entry(card, folder)
