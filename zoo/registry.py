"""The zoo: finds models by scanning cards. A model is a folder with a card.json and a model.onnx, not code.

Shipped models lie in `zoo/models/`, the user's own in `$ZOO_HOME/models/`. Shipped names win: nothing in a user's
folder can take one. A bare architecture (`mnist14k`) means its recipe marked `default` (`mnist14k.notes`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from zoo.card import Card
from zoo.errors import BadModel, ModelNotFound
from zoo.home import home

SHIPPED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Entry:
    """A model that the zoo knows: its card, and the folder that holds its files."""

    card: Card
    folder: Path


def scan(pattern: str = "*") -> list[Entry]:
    """All models whose name or architecture matches a shell pattern, sorted by name; damaged cards raise BadModel."""
    entries = {entry.card.name: entry for folder in (home() / "models", SHIPPED) for entry in _entries(folder)}
    return [
        entries[name]
        for name in sorted(entries)
        if fnmatchcase(name, pattern) or fnmatchcase(entries[name].card.architecture, pattern)
    ]


def find(name: str) -> Entry:
    """The model of that full name, or an architecture's default one.

    Raises:
        ModelNotFound: with the names that come nearest.
    """
    for folder in (SHIPPED / name, home() / "models" / name):
        if "/" not in name and "\\" not in name and (folder / "card.json").is_file():
            return _entry(folder)
    of_architecture = [entry for entry in scan() if entry.card.architecture == name]
    shipped_first = sorted(of_architecture, key=lambda entry: (entry.folder.parent != SHIPPED, not entry.card.default))
    if shipped_first and (shipped_first[0].card.default or len(shipped_first) == 1):
        return shipped_first[0]
    raise ModelNotFound(_not_found(name, [entry.card.name for entry in scan()]))


def _not_found(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    architectures = {full.split(".")[0] for full in known}
    close = get_close_matches(name, [*architectures, *known], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "`zoo list` shows all models."
    return f"There is no model {name!r}: {hint}"


def _entries(parent: Path) -> Iterator[Entry]:
    for card in sorted(parent.glob("*/card.json")):
        yield _entry(card.parent)


def _entry(folder: Path) -> Entry:
    path = folder / "card.json"
    try:
        card = Card.from_json(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}.") from None
    if card.name != folder.name:
        raise BadModel(f"{path} says that it is {card.name!r}: the folder must have the model's name.")
    return Entry(card, folder)
