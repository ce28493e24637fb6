"""The zoo: finds models by scanning cards. A model is a folder with a card.json and a model.onnx, not code.

Shipped models lie in `zoo/models/`, the user's own in `$ZOO_HOME/models/`. Shipped names win: nothing in a user's
folder can take one. A bare architecture (`mnist14k`) means its recipe marked `default` (`mnist14k.plus`).

A user's folder may hold models of other people. A damaged one is left out of lists with its reason (`damaged()`), and
neither hides nor breaks another.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from zoo.card import NAME, Card
from zoo.errors import BadModel, ModelNotFound, ZooError, reason
from zoo.model_files import LARGEST_CARD, LARGEST_MODEL, read_file

# Where pocketzoo keeps a user's own files: models, training runs and decoded data sets.


def home() -> Path:
    """`$ZOO_HOME`, or `pocketzoo` in the user's cache folder. The folder is not created here.

    Raises:
        ZooError: neither is there.
    """
    try:
        if chosen := os.environ.get("ZOO_HOME"):
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pocketzoo"
    except RuntimeError as error:
        raise ZooError(f"There is no home folder ({reason(error)}): set ZOO_HOME to a folder of yours.") from None


SHIPPED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Entry:
    """A model that the zoo knows: its card, and the folder that holds its files."""

    card: Card
    folder: Path

    @property
    def shipped(self) -> bool:
        """Whether it came with pocketzoo, rather than from the user's folder or a path."""
        return self.folder.parent == SHIPPED

    def read(self, name: str) -> bytes:
        """The content of one of its files.

        Shipped files may be links, as package managers lay them; those of other models lie in the model's folder.

        Raises:
            ModelNotFound: it is not there. BadModel: it cannot be read, is too large, or lies elsewhere.
        """
        return read_file(self.folder / name, LARGEST_MODEL, None if self.shipped else self.folder)


def scan(pattern: str = "*") -> list[Entry]:
    """All models whose name or architecture matches a shell pattern, sorted by name, but for `damaged()` ones.

    A pattern without wildcards that is neither a name nor an architecture means what begins with it.
    """
    entries = [entry for entry in _survey() if isinstance(entry, Entry)]
    found = [entry for entry in entries if _matches(entry.card.name, pattern)]
    if not found and pattern and not is_pattern(pattern):
        found = [entry for entry in entries if entry.card.name.startswith(pattern)]
    return found


def damaged(pattern: str = "*") -> list[BadModel]:
    """What is wrong with the models that cannot be listed, each as its sentence; by the names of their folders."""
    return [problem for problem in _survey(lambda name: _matches(name, pattern)) if isinstance(problem, BadModel)]


def is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def find(name: str) -> Entry:
    """The model of that full name, or an architecture's default one.

    Raises:
        ModelNotFound: with the names that come nearest. BadModel: it is there, and damaged.
    """
    if NAME.fullmatch(name):
        for parent in (SHIPPED, home() / "models"):
            if os.path.lexists(parent / name / "card.json"):
                return _entry(parent / name)
    of_architecture = [entry for entry in _survey(lambda full: full.split(".")[0] == name) if isinstance(entry, Entry)]
    shipped_first = sorted(of_architecture, key=lambda entry: (not entry.shipped, not entry.card.default))
    if shipped_first and (shipped_first[0].card.default or len(shipped_first) == 1):
        return shipped_first[0]
    raise ModelNotFound(not_found(name, [entry.card.name for entry in scan()]))


def open_folder(folder: Path) -> Entry:
    """The model in a folder anywhere, whatever the folder's name. Raises ModelNotFound, BadModel."""
    card = Card.from_json(_text(folder / "card.json", folder), str(folder / "card.json"))
    card.file("model.onnx")  # a card that lists no model is damaged
    return Entry(card, folder)


def not_found(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    architectures = {full.split(".")[0] for full in known} - {name}
    close = get_close_matches(name[:100].lower(), [*architectures, *known], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "`zoo list` shows all models."
    return f"There is no model {name[:100]!r}: {hint}"


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.split(".")[0], pattern)


def _survey(wanted: Callable[[str], bool] = lambda name: True) -> list[Entry | BadModel]:
    """What the cards say, of the models whose folder has a wanted name, sorted by these names.

    A shipped model stands for an own one of its name.
    """
    folders = {folder.name: folder for parent in (home() / "models", SHIPPED) for folder in _folders(parent)}
    found: list[Entry | BadModel] = []
    for name in sorted(filter(wanted, folders)):
        try:
            found.append(_entry(folders[name]))
        except ZooError as problem:
            found.append(problem if isinstance(problem, BadModel) else BadModel(str(problem)))
    return found


def _folders(parent: Path) -> Iterator[Path]:
    """Folders with a card. Those whose name begins with a dot are models in the making."""
    try:
        names = os.listdir(parent)
    except (OSError, ValueError):  # nobody has made it, or it is none
        return
    for name in names:
        if not name.startswith(".") and os.path.lexists(parent / name / "card.json"):
            yield parent / name


def _entry(folder: Path) -> Entry:
    if folder.parent != SHIPPED and _real(folder).parent != _real(folder.parent):
        raise BadModel(f"{folder} is a link to another place: copy the model there, or use its path as the name.")
    entry = open_folder(folder)
    if entry.card.name != folder.name:
        raise BadModel(
            f"{folder / 'card.json'} says that it is {entry.card.name!r}: the folder must have the model's name."
        )
    return entry


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # links that lead to each other
        raise BadModel(f"{path} is a link that leads nowhere: remove it.") from None


def _text(path: Path, folder: Path) -> str:
    try:
        return read_file(path, LARGEST_CARD, None if folder.parent == SHIPPED else folder).decode()
    except UnicodeDecodeError:
        raise BadModel(f"{path} is not UTF-8 text: get the model again.") from None
