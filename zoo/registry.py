"""Finds models by scanning cards. A model is a folder with a card.json and a model.onnx, not code.

Shipped models are in `zoo/models/`, the user's own in `$ZOO_HOME/models/`. Shipped names have precedence, so nothing in
the user's folder can replace a shipped model. An architecture (`mnist14k`) means its model that is marked `default`
(`mnist14k.plus`).

The user's folder may contain models of other people. Damaged ones are left out of lists, do not affect other models,
and are reported by `damaged()`.
"""

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from zoo.card import NAME, Card
from zoo.dataclass import dataclass
from zoo.errors import BadModel, ModelNotFound, ZooError, reason
from zoo.model_files import LARGEST_CARD, LARGEST_MODEL, read_file


def home() -> Path:
    """The folder of the user's own models, training runs and cached data sets. It is not created here.

    `$ZOO_HOME`, or `pocketzoo` in the user's cache folder.

    Raises:
        ZooError: the user has no home folder.
    """
    try:
        if chosen := os.environ.get("ZOO_HOME"):
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pocketzoo"
    except RuntimeError as error:
        raise ZooError(f"There is no home folder ({reason(error)}): set ZOO_HOME to a folder.") from None


SHIPPED_FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Entry:
    """A model: its card, and the folder of its files."""

    card: Card
    folder: Path

    @property
    def shipped(self) -> bool:
        """Whether the model is part of pocketzoo, rather than in the user's folder or at a path."""
        return self.folder.parent == SHIPPED_FOLDER

    def read(self, name: str) -> bytes:
        """The content of one of the model's files.

        Shipped files may be links, which some package managers create. Other models' files must be in their folder.

        Raises:
            ModelNotFound: there is no such file.
            BadModel: it cannot be read, is too large, or is outside of the folder.
        """
        return read_file(self.folder / name, LARGEST_MODEL, None if self.shipped else self.folder)


def scan(pattern: str = "*") -> list[Entry]:
    """All models whose name or architecture matches a shell pattern, sorted by name, without `damaged()` ones.

    A pattern without wildcards that is neither a name nor an architecture matches the names that begin with it.
    """
    entries = [entry for entry in _read_cards() if isinstance(entry, Entry)]
    matches = [entry for entry in entries if _matches(entry.card.name, pattern)]
    if not matches and pattern and not is_pattern(pattern):
        matches = [entry for entry in entries if entry.card.name.startswith(pattern)]
    return matches


def damaged(pattern: str = "*") -> list[BadModel]:
    """An error for each model that cannot be listed, sorted by the names of the folders."""
    return [problem for problem in _read_cards(lambda name: _matches(name, pattern)) if isinstance(problem, BadModel)]


def is_pattern(name: str) -> bool:
    """Whether a name contains wildcards."""
    return any(sign in name for sign in "*?[")


def find(name: str) -> Entry:
    """The model of a full name, or the default model of an architecture.

    Raises:
        ModelNotFound: the message suggests similar names.
        BadModel: the model is damaged.
    """
    if NAME.fullmatch(name):
        for parent in (SHIPPED_FOLDER, home() / "models"):
            if os.path.lexists(parent / name / "card.json"):
                return _entry(parent / name)
    same_architecture = _read_cards(lambda full_name: full_name.split(".")[0] == name)
    entries = [entry for entry in same_architecture if isinstance(entry, Entry)]
    shipped_first = sorted(entries, key=lambda entry: (not entry.shipped, not entry.card.default))
    if shipped_first and (shipped_first[0].card.default or len(shipped_first) == 1):
        return shipped_first[0]
    raise ModelNotFound(not_found(name, [entry.card.name for entry in scan()]))


def open_folder(folder: Path) -> Entry:
    """The model in any folder; the folder's name does not matter. Raises ModelNotFound, BadModel."""
    card = Card.from_json(_text(folder / "card.json", folder), str(folder / "card.json"))
    card.file("model.onnx")  # raises BadModel for a card that does not list it
    return Entry(card, folder)


def not_found(name: str, known: list[str]) -> str:
    """The error message for an unknown name or a pattern without matches, with similar names."""
    from difflib import get_close_matches

    architectures = {full.split(".")[0] for full in known} - {name}
    close = get_close_matches(name[:100].lower(), [*architectures, *known], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"No model matches {name[:100]!r}. {hint}Run `zoo list` to see all models."


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.split(".")[0], pattern)


def _read_cards(wanted: Callable[[str], bool] = lambda name: True) -> list[Entry | BadModel]:
    """The models, or their errors, whose folders have a wanted name; sorted by name.

    A shipped model replaces a user's model of the same name.
    """
    folders = {folder.name: folder for parent in (home() / "models", SHIPPED_FOLDER) for folder in _folders(parent)}
    entries: list[Entry | BadModel] = []
    for name in sorted(filter(wanted, folders)):
        try:
            entries.append(_entry(folders[name]))
        except ZooError as problem:
            entries.append(problem if isinstance(problem, BadModel) else BadModel(str(problem)))
    return entries


def _folders(parent: Path) -> Iterator[Path]:
    """Folders with a card. Names that begin with a dot are unfinished exports."""
    try:
        names = os.listdir(parent)
    except (OSError, ValueError):  # it does not exist, or is not a folder
        return
    for name in names:
        if not name.startswith(".") and os.path.lexists(parent / name / "card.json"):
            yield parent / name


def _entry(folder: Path) -> Entry:
    if folder.parent != SHIPPED_FOLDER and _real(folder).parent != _real(folder.parent):
        raise BadModel(f"{folder} is a link: copy the model into its place, or load the model by its real path.")
    entry = open_folder(folder)
    if entry.card.name != folder.name:
        raise BadModel(
            f"{folder / 'card.json'} is the card of {entry.card.name!r}: rename the folder to the model's name."
        )
    return entry


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # links in a circle
        raise BadModel(f"{path} is a broken link: remove it.") from None


def _text(path: Path, folder: Path) -> str:
    try:
        return read_file(path, LARGEST_CARD, None if folder.parent == SHIPPED_FOLDER else folder).decode()
    except UnicodeDecodeError:
        raise BadModel(f"{path} is not UTF-8 text: get the model again.") from None
