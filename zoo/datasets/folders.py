"""Labelled images of one's own: folders of classes, CSV and parquet files, and zips of them -> items with labels.

Nothing is decoded here: an item knows its label and how to read its bytes. Files are untrusted. Links and paths that
lead outside of the folder are refused, unpacked bytes are counted, and parquet files are read by a process with limits
(`parquet_rows.py`).
"""

from __future__ import annotations

import csv
import io
import os
import stat
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from zoo.datasets.parquet_rows import read_rows
from zoo.errors import BadData, BadInput, WrongUsage, ZooError, printable, reason
from zoo.images.headers import START, sniff
from zoo.images.read import MAX_FILE_BYTES, Named, read_file
from zoo.limited import BoundedZipFile

SplitName = Literal["train", "validation", "test"]

SPLITS: dict[str, SplitName] = {  # names of folders and files -> the split that they hold
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
PATH_COLUMNS = ("path", "file_name", "filename", "file", "image", "image_path", "filepath")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "target", "category", "fine_label")
IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .tif .tiff .avif .pgm .ppm .heic .jxl".split())

MAX_IMAGES = 1_000_000
MAX_CSV_BYTES = 2**28
MIN_UNPACKED_BYTES = 2**28  # that any zip may unpack to
MAX_RATIO = 100  # unpacked bytes per byte of a zip
MAX_PARQUET_BYTES = 2**31  # a parquet file inside a zip
PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Item:
    """One labelled image. `read()` returns its path or its bytes; it raises BadInput."""

    name: str
    label: str
    split: SplitName | None
    read: Callable[[], str | Named] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images, and what was passed over on the way."""

    path: str
    items: tuple[Item, ...]
    problems: tuple[Problem, ...] = ()
    hidden: tuple[str, ...] = ()  # folders whose names begin with a dot, and __MACOSX
    other_files: int = 0  # neither images nor tables

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes: in the order of their numbers if all are integers, otherwise of their names."""
        return sort_labels({item.label for item in self.items})


def sort_labels(labels: set[str]) -> tuple[str, ...]:
    """Numbers by value ("10" after "9"), anything else by name."""
    numeric = all(label.isdecimal() for label in labels)
    return tuple(sorted(labels, key=lambda label: (int(label), label) if numeric else (0, label)))


def labelled_images(path: str | os.PathLike[str]) -> LabelledImages:
    """Find the labelled images of a folder, a CSV or parquet file, or a zip of these.

    Raises:
        BadData: there are none, or the file is damaged.
        WrongUsage: there is no such path.
    """
    text = os.fspath(path)
    if not os.path.exists(text):
        raise WrongUsage(f"{text} does not exist: check the path.")
    try:
        if os.path.isdir(text):
            found = _from_files(text, *_walk(Path(text)))
        elif text.lower().endswith((".csv", ".tsv")):
            parent = Path(text).parent
            found = _from_csv(text, _read_limited(text, MAX_CSV_BYTES), _reader_in_folder(parent))
        elif _starts_with(text, b"PAR1"):
            found = _from_parquet(text, _reader_in_folder(Path(text).parent))
        elif _starts_with(text, b"PK\x03\x04") or _starts_with(text, b"PK\x05\x06"):
            found = _from_zip(text)
        else:
            raise WrongUsage(f"{text} is not a folder, a CSV or parquet file, or a zip archive of labelled images.")
    except OSError as error:
        raise BadData(f"{text} cannot be read ({reason(error)}): check the path.") from None
    if not found.items:
        first = f" The first problem: {found.problems[0].name}: {found.problems[0].reason}" if found.problems else ""
        raise BadData(
            f"{text} holds no labelled images: use one sub-folder per class, or a CSV file with the columns path and "
            f"label.{first}"
        )
    return found


# A tree of files: a folder or a zip, as relative paths and a function that reads one of them.

Files = dict[str, Callable[[], str | Named]]


def _walk(root: Path) -> tuple[Files, list[str], list[Problem]]:
    """All files below a folder, hidden folders and links that are not followed."""
    files: Files = {}
    hidden: list[str] = []
    problems: list[Problem] = []
    real_root = root.resolve()
    for folder, folders, names in os.walk(root):
        for name in sorted(folders):
            relative = os.path.relpath(os.path.join(folder, name), root)
            if _is_hidden(name):
                hidden.append(relative)
            elif os.path.islink(os.path.join(folder, name)):
                problems.append(Problem(relative, "is a link to a folder, which is not followed"))
        folders[:] = sorted(n for n in folders if not _is_hidden(n) and not os.path.islink(os.path.join(folder, n)))
        for name in sorted(names):
            if _is_hidden(name):
                continue
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            if os.path.islink(path) and not Path(path).resolve().is_relative_to(real_root):
                problems.append(Problem(relative, "is a link that leads outside of the folder"))
                continue
            files[Path(relative).as_posix()] = lambda path=path: path  # type: ignore[misc]
            if len(files) > MAX_IMAGES:
                raise BadData(f"{root} holds more than {MAX_IMAGES:,} files: choose a smaller folder.")
    return files, hidden, problems


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _from_files(path: str, files: Files, hidden: list[str], problems: list[Problem]) -> LabelledImages:
    """Labels from the folders of a tree, or from the tables in it."""
    images = [name for name, read in files.items() if _is_image(name, read)]
    tables = [name for name in files if name.lower().endswith((".parquet", ".csv", ".tsv"))]
    parts = {name: PurePosixPath(name).parts for name in images}
    nested = {name: part for name, part in parts.items() if len(part) > 1}
    for name in images if not tables else ():
        if name not in nested:
            problems.append(Problem(name, "is not in the folder of a class"))
    while nested and len({part[0] for part in nested.values()}) == 1 and all(len(p) > 2 for p in nested.values()):
        nested = {name: part[1:] for name, part in nested.items()}
    if parquet := [name for name in tables if name.endswith(".parquet")]:
        return _joined(path, [_parquet_in_tree(path, name, files) for name in parquet], hidden, problems)
    in_splits = bool(nested) and all(part[0].lower() in SPLITS and len(part) > 2 for part in nested.values())
    in_classes = len({part[0] for part in nested.values()}) > 1
    if tables and not in_splits and (len(nested) < len(images) or not in_classes):
        found = []
        for name in tables:
            base = PurePosixPath(name).parent
            content = _bytes_of(files[name](), MAX_CSV_BYTES)
            found.append(_from_csv(name, content, _reader_in_tree(base, files), _split_of(name)))
        return _joined(path, found, hidden, problems)
    items = []
    for name, part in nested.items():
        split = SPLITS[part[0].lower()] if in_splits else None
        items.append(Item(name, _label(part[1] if in_splits else part[0]), split, files[name]))
    return LabelledImages(path, tuple(items), tuple(problems), tuple(hidden), len(files) - len(images))


def _joined(path: str, found: list[LabelledImages], hidden: list[str], problems: list[Problem]) -> LabelledImages:
    items = tuple(item for part in found for item in part.items)
    return LabelledImages(path, items, (*problems, *(x for part in found for x in part.problems)), tuple(hidden))


def _split_of(name: str) -> SplitName | None:
    """The split that a file's name begins with, such as `train-00000-of-00001.parquet`."""
    stem = PurePosixPath(name).stem.lower()
    return next((split for word, split in SPLITS.items() if stem == word or stem.startswith((f"{word}-", f"{word}_"))),
                None)  # fmt: skip


def _is_image(name: str, read: Callable[[], str | Named]) -> bool:
    """By the suffix, so that damaged images are reported, or by the first bytes."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix:
        return False
    try:
        return sniff(_bytes_of(read(), MAX_FILE_BYTES)[:START]) is not None
    except (ZooError, OSError):
        return False


def _label(text: str) -> str:
    """A label as a card can hold it: printable, 1 to 200 characters."""
    return printable(text.encode(errors="backslashreplace").decode().strip())[:200]


def _bytes_of(source: str | Named, limit: int) -> bytes:
    return source.data if isinstance(source, Named) else _read_limited(source, limit)


def _read_limited(path: str, limit: int) -> bytes:
    if limit <= MAX_FILE_BYTES:
        return read_file(path)
    if not os.path.isfile(path) or os.path.getsize(path) > limit:
        raise BadData(f"{path} is not a file of at most {limit:,} bytes.")
    with open(path, "rb") as file:
        return file.read(limit)


def _starts_with(path: str, start: bytes) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(start)) == start


# Tables: paths and labels.

ReadPath = Callable[[str], Callable[[], str | Named]]


def _reader_in_folder(folder: Path) -> ReadPath:
    """Finds the files that a table names; relative to its folder, and not outside of it. Raises BadInput."""
    root = folder.resolve()

    def find(name: str) -> Callable[[], str | Named]:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise BadInput("leads outside of the table's folder")
        if not path.is_file():
            raise BadInput("does not exist")
        return lambda: str(path)

    return find


def _reader_in_tree(base: PurePosixPath, files: Files) -> ReadPath:
    def find(name: str) -> Callable[[], str | Named]:
        path = os.path.normpath((base / name.replace("\\", "/")).as_posix())
        if path.startswith(("..", "/")):
            raise BadInput("leads outside of the table's folder")
        if path not in files:
            raise BadInput("does not exist")
        return files[path]

    return find


def _from_csv(name: str, content: bytes, find: ReadPath, split: SplitName | None = None) -> LabelledImages:
    """A CSV file with a header, or with two columns: path and label."""
    try:
        text = content.decode("utf-8-sig")
        first = text.split("\n", 1)[0]
        delimiter = max(",;\t", key=first.count)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{name} is not a CSV file in UTF-8 ({reason(error)}): write it again.") from None
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    path_column = next((header.index(known) for known in PATH_COLUMNS if known in header), None)
    label_column = next((header.index(known) for known in LABEL_COLUMNS if known in header), None)
    if path_column is None or label_column is None:
        if len(header) != 2 or path_column is not None or label_column is not None:
            raise BadData(f"{name} needs the columns path and label. It has: {', '.join(header)[:200] or 'no rows'}.")
        path_column, label_column = 0, 1
    else:
        rows = rows[1:]
    split_column = header.index("split") if "split" in header else None
    items: list[Item] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows, 1):
        cells = {column: row[column].strip() for column in (path_column, label_column) if column < len(row)}
        if len(cells) < 2 or not all(cells.values()):
            problems.append(Problem(f"{name} row {number}", "has no path or no label"))
            continue
        own_split = row[split_column] if split_column is not None and split_column < len(row) else ""
        _add(items, problems, cells[path_column], cells[label_column], SPLITS.get(own_split.lower(), split), find)
    _check_any_exist(name, items, problems)
    return LabelledImages(name, tuple(items), tuple(problems))


def _add(
    items: list[Item], problems: list[Problem], path: str, label: str, split: SplitName | None, find: ReadPath
) -> None:
    try:
        items.append(Item(printable(path), _label(label), split, find(path)))
    except (BadInput, OSError, ValueError) as error:
        problems.append(Problem(printable(path[:200]), reason(error)))


def _check_any_exist(name: str, items: list[Item], problems: list[Problem]) -> None:
    if problems and not items:
        raise BadData(
            f"None of the {len(problems):,} paths in {name} can be used; the first: {problems[0].name} "
            f"{problems[0].reason}. Paths are relative to the folder of the table."
        )


def _parquet_in_tree(path: str, name: str, files: Files) -> LabelledImages:
    source, find = files[name](), _reader_in_tree(PurePosixPath(name).parent, files)
    if isinstance(source, str):
        return _from_parquet(source, find, _split_of(name))
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(source.data)
        file.flush()
        return _from_parquet(file.name, find, _split_of(name), f"{path}/{name}")


def _from_parquet(path: str, find: ReadPath, split: SplitName | None = None, name: str | None = None) -> LabelledImages:
    """Images inside of the file (Hugging Face's layout), or their paths."""
    name = name or path
    items: list[Item] = []
    problems: list[Problem] = []
    for number, row in enumerate(read_rows(path, name, PATH_COLUMNS, LABEL_COLUMNS)):
        where = f"{name}/{number}"
        if row.label is None:
            problems.append(Problem(where, "has no label"))
        elif isinstance(row.image, bytes):
            image = Named(where, row.image)
            items.append(Item(where, _label(row.label), split, lambda image=image: image))  # type: ignore[misc]
        elif row.image:
            _add(items, problems, row.image, row.label, split, find)
        else:
            problems.append(Problem(where, "has no image"))
    _check_any_exist(name, items, problems)
    return LabelledImages(name, tuple(items), tuple(problems))


# Zip archives. Nothing is unpacked to disk, so no member can be written outside of a folder.


class _Zip:
    """Reads members of a zip within its limits."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.remaining = max(MAX_RATIO * os.path.getsize(path), MIN_UNPACKED_BYTES)
        self.file = BoundedZipFile(io.FileIO(path))
        weakref.finalize(self, self.file.close)  # when the last item is gone
        self.archive = zipfile.ZipFile(self.file)

    def members(self) -> Iterator[zipfile.ZipInfo]:
        infos = self.archive.infolist()
        if len(infos) > MAX_IMAGES:
            raise BadData(f"{self.path} has more than {MAX_IMAGES:,} members: split it.")
        yield from (info for info in infos if not info.is_dir())

    def read(self, info: zipfile.ZipInfo) -> Named:
        name = f"{self.path}/{printable(info.filename)}"
        limit = MAX_PARQUET_BYTES if info.filename.endswith((".parquet", ".csv", ".tsv")) else MAX_FILE_BYTES
        if stat.S_ISLNK(info.external_attr >> 16):
            raise BadInput(f"{name} is a link, which is not followed.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadInput(f"{name} is compressed by a method that is not supported: use deflate.")
        content = bytearray()
        try:
            with self.archive.open(info) as member:
                while piece := member.read(PIECE_BYTES):
                    content += piece
                    self.remaining -= len(piece)
                    if len(content) > limit:
                        raise BadInput(f"{name} has more than {limit:,} bytes.")
                    if self.remaining < 0:
                        raise BadInput(f"{self.path} unpacks to more than its limit: unpack it and pass the folder.")
        except ZooError:
            raise
        except Exception as error:  # damage can make a decompressor raise anything
            raise BadInput(f"{name} cannot be read from the archive ({reason(error)}).") from None
        return Named(name, bytes(content))


def _from_zip(path: str) -> LabelledImages:
    try:
        archive = _Zip(path)
        members = list(archive.members())
    except ZooError:
        raise
    except Exception as error:
        raise BadData(f"{path} is a damaged zip archive ({reason(error)}): get the file again.") from None
    files: Files = {}
    hidden: dict[str, None] = {}
    for info in members:
        parts = PurePosixPath(info.filename.replace("\\", "/")).parts
        if bad := [n for n, part in enumerate(parts) if _is_hidden(part) and part != ".."]:
            if bad[0] < len(parts) - 1:
                hidden["/".join(parts[: bad[0] + 1])] = None
            continue
        files["/".join(part for part in parts if part not in ("..", "/"))] = _member_reader(archive, info)
    return _from_files(path, files, list(hidden), [])


def _member_reader(archive: _Zip, info: zipfile.ZipInfo) -> Callable[[], Named]:
    return lambda: archive.read(info)


def mapped(labels: tuple[str, ...], known: tuple[str, ...], mapping: Mapping[str, str] | None = None) -> dict[str, str]:
    """Match the names of classes to a model's labels: by the mapping, exactly, or without regard to case.

    Raises:
        WrongUsage: a class is not among the labels.
    """
    mapping = dict(mapping or {})
    if wrong := sorted(set(mapping.values()) - set(known)):
        raise WrongUsage(f"{wrong[0]!r} is not a label of the model. Its labels: {_listed(known)}.")
    folded = {label.casefold().replace("_", " ").strip(): label for label in known}
    result, unknown = {}, []
    for label in labels:
        match = mapping.get(label) or (label if label in known else folded.get(label.casefold().replace("_", " ")))
        if match is None:
            unknown.append(label)
        else:
            result[label] = match
    if unknown:
        raise WrongUsage(
            f"{len(unknown)} of the {len(labels)} classes are not labels of the model: {_listed(tuple(unknown))}. Its "
            f"labels: {_listed(known)}. Name the pairs with --map CLASS=LABEL."
        )
    return result


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:12]) + (f" and {len(labels) - 12} more" if len(labels) > 12 else "")
