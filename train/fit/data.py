"""Labelled images -> prepared arrays, their facts and warnings in words, and the split.

`zoo.images.prepare.prepare` brings each image into the network's form, as in `zoo predict`, so the network is trained
on the pixels that it will get.
"""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from train.data import Split
from zoo.card import Input
from zoo.datasets.folders import Item, LabelledImages, Problem, SplitName, labelled_images, sort_labels
from zoo.errors import BadData, BadInput
from zoo.images.prepare import prepare
from zoo.images.read import decode

Pixels = npt.NDArray[np.uint8]

LOOK_SIDE = 64  # pixels of the shorter side that show whether an image is grey; the decoder may reduce it to that
MIN_IMAGES = 3  # per class: one for each split
SMALL_CLASS = 20  # images; with fewer the accuracy of the class means little
MAX_BYTES = 4 * 2**30  # of all prepared images
TEST_SHARE, VALIDATION_SHARE = 0.15, 0.10
SMALL_PHOTO = 48  # pixels of the shorter side: images below are trained at 32, others at 64
GREY_TOLERANCE = 4  # levels between channels; JPEG files of grey images differ by a few
IMBALANCE = 1.5  # largest class / smallest class from which on classes are weighted
NEAR_BITS = 6  # of 64 of the perceptual hash; of smooth images some bits are noise
NEAR_LEVELS = 4.0  # mean difference of near duplicates, of 255
MAX_COMPARED = 20_000  # images; more are compared for exact duplicates only
SHOWN = 5  # files that a message names
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class OwnData:
    """Prepared images with their labels and splits."""

    source: str
    labels: tuple[str, ...]
    input: Input
    names: tuple[str, ...]
    images: Pixels  # `(N, H, W, C)`
    classes: npt.NDArray[np.int64]  # `(N,)`, positions in `labels`
    split: npt.NDArray[np.str_]  # `(N,)`: "train", "validation" or "test"
    facts: tuple[str, ...]  # sentences for the user
    problems: tuple[Problem, ...]  # files that were not used

    def part(self, name: SplitName) -> Split:
        rows = np.flatnonzero(self.split == name)
        return Split(name, torch.from_numpy(self.images[rows]), torch.from_numpy(self.classes[rows]))

    def names_of(self, name: SplitName) -> list[str]:
        return [self.names[row] for row in np.flatnonzero(self.split == name)]

    def counts(self) -> dict[str, int]:
        return {name: int((self.split == name).sum()) for name in SPLITS}

    def sha256(self) -> str:
        """Over the labels, and each image's pixels, class and split; independent of the names of the files."""
        digest = hashlib.sha256(repr((self.labels, self.images.shape)).encode())
        for part in (self.images, self.classes, np.array([SPLITS.index(x) for x in self.split], np.uint8)):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def class_weights(self) -> torch.Tensor | None:
        """Weights of the classes in the loss, mean 1 over the images; None where the classes are about as large."""
        counts = np.bincount(self.classes[self.split == "train"], minlength=len(self.labels))
        if counts.max() < IMBALANCE * counts.min():
            return None
        weights = 1 / np.sqrt(counts)
        return torch.from_numpy((weights * counts.sum() / (weights * counts).sum()).astype(np.float32))


@dataclass(frozen=True)
class _Decoded:
    height: int
    width: int
    grey: bool
    candidates: dict[tuple[int, int], Pixels]  # (size, channels) -> the prepared image


def read(source: str | os.PathLike[str], seed: int, size: int | None = None, expected: Input | None = None) -> OwnData:
    """Read, prepare and split labelled images.

    Args:
        seed: of the split.
        size: pixels per side of the network's input; chosen by the images if None.
        expected: the input of a network that exists, which replaces `size`.
    Raises:
        BadData: too few images or classes.
        WrongUsage: there is no such path.
    """
    found = labelled_images(source)
    _check(found.path, Counter(item.label for item in found.items))
    inputs = [expected] if expected else _inputs((size,) if size else (28, 32, 64))
    items, decoded, problems = _decode_all(list(found.items), inputs)
    problems = [*found.problems, *problems]
    if not items:
        raise BadData(
            f"None of the {len(found.items):,} images in {found.path} can be read; the first: {problems[0].name}: "
            f"{problems[0].reason}"
        )
    counts = Counter(item.label for item in items)
    counts.update({item.label: 0 for item in found.items})
    _check(found.path, counts)
    chosen = expected or _choose(decoded, size)
    key = (chosen.height, chosen.channels)
    images = np.stack([image.candidates[key] for image in decoded])
    labels = sort_labels(set(counts))
    position = {label: index for index, label in enumerate(labels)}
    classes = np.array([position[item.label] for item in items], np.int64)
    groups, exact, near = _duplicates(images)
    split, moved = _split(items, classes, groups, seed, found.path, labels)
    conflicts = _conflicts(groups, classes)
    facts = [
        *_describe(found, items, decoded, labels, counts),
        f"Input of the network: {chosen.width}x{chosen.height}, {'grey' if chosen.channels == 1 else 'colour'}.",
        *_problem_facts(found, problems),
        *_duplicate_facts(exact, near, moved, conflicts, [item.name for item in items]),
        "Split: " + ", ".join(f"{int((split == name).sum()):,} {name}" for name in SPLITS) + ".",
        *_small_facts(labels, classes, split),
    ]
    kept = np.flatnonzero(split != "")
    names = tuple(items[row].name for row in kept)
    return OwnData(
        found.path, labels, chosen, names, images[kept], classes[kept], split[kept], tuple(facts), tuple(problems)
    )


def _inputs(sizes: tuple[int, ...]) -> list[Input]:
    return [Input(size, size, channels, "photo") for size in sizes for channels in (1, 3)]


def _check(path: str, counts: "Counter[str]") -> None:
    """Raise BadData unless there are two classes with enough images each."""
    if len(counts) < 2:
        only = f" ({next(iter(counts))!r})" if counts else ""
        raise BadData(f"{path} has one class{only}: a classifier needs at least two. Use one sub-folder per class.")
    if small := sorted(label for label, count in counts.items() if count < MIN_IMAGES):
        count = counts[small[0]]
        raise BadData(
            f"The class {small[0]!r} in {path} has {count or 'no'} readable image{'s' * (count != 1)}: add images "
            f"until every class has at least {MIN_IMAGES}, or remove the class."
        )


def _decode_all(items: list[Item], inputs: list[Input]) -> tuple[list[Item], list[_Decoded], list[Problem]]:
    needed = len(items) * sum(x.height * x.width * x.channels for x in inputs)
    if needed > MAX_BYTES:
        raise BadData(
            f"{len(items):,} images need {needed / 1e9:.1f} GB of memory, more than the limit of "
            f"{MAX_BYTES / 1e9:.1f}: use fewer images, or choose the size (--size)."
        )

    def one(item: Item) -> _Decoded | str:
        try:
            content = item.read()
            image = decode(content, LOOK_SIDE)
            candidates = {(x.height, x.channels): prepare(content, x)[0] for x in inputs}
        except BadInput as error:
            return str(error)
        except (OSError, MemoryError) as error:
            return f"cannot be read ({type(error).__name__})"
        pixels = image.pixels
        sample = pixels[:: max(1, pixels.shape[0] // 64), :: max(1, pixels.shape[1] // 64), :3].astype(np.int16)
        grey = bool(np.ptp(sample, axis=2).max() <= GREY_TOLERANCE)
        height, width = (image.reduced.height, image.reduced.width) if image.reduced else pixels.shape[:2]
        return _Decoded(height, width, grey, candidates)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(one, items))
    good = [(item, result) for item, result in zip(items, results, strict=True) if isinstance(result, _Decoded)]
    problems = [Problem(item.name, x) for item, x in zip(items, results, strict=True) if isinstance(x, str)]
    return [item for item, _ in good], [result for _, result in good], problems


def _choose(decoded: list[_Decoded], size: int | None) -> Input:
    """28 grey, 32 colour for small images, 64 colour for others."""
    grey = all(image.grey for image in decoded)
    shorter = float(np.median([min(image.height, image.width) for image in decoded]))
    side = size or (28 if grey else 32 if shorter < SMALL_PHOTO else 64)
    return Input(side, side, 1 if grey else 3, "photo")


def _duplicates(images: Pixels) -> tuple[npt.NDArray[np.int64], list[tuple[int, int]], list[tuple[int, int]]]:
    """The group of each image, and the pairs of exact and near duplicates."""
    parents = np.arange(len(images))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = int(parents[row])
        return row

    first: dict[bytes, int] = {}
    exact, near = [], []
    for row, image in enumerate(images):
        other = first.setdefault(hashlib.sha256(np.ascontiguousarray(image).data).digest(), row)
        if other != row:
            exact.append((other, row))
            parents[root(row)] = root(other)
    distinct = np.array(sorted(first.values()))
    if len(distinct) <= MAX_COMPARED:
        for a, b in _near_pairs(images[distinct]):
            near.append((int(distinct[a]), int(distinct[b])))
            parents[root(near[-1][1])] = root(near[-1][0])
    return np.array([root(row) for row in range(len(images))]), exact, near


def _near_pairs(images: Pixels) -> list[tuple[int, int]]:
    """Pairs whose perceptual hashes differ in few bits and whose pixels differ little."""
    import imagehash

    squeezed = images[..., 0] if images.shape[3] == 1 else images
    hashes = [imagehash.phash(Image.fromarray(image), hash_size=8).hash.ravel() for image in squeezed]
    signs = np.where(np.stack(hashes), 1, -1).astype(np.float32)
    pairs = []
    for start in range(0, len(images), 1000):
        distance = (signs.shape[1] - signs[start : start + 1000] @ signs.T) / 2
        for a, b in np.argwhere(distance <= NEAR_BITS):
            one, other = int(a) + start, int(b)
            if one < other:
                difference = np.abs(images[one].astype(np.int16) - images[other]).mean()
                if difference <= NEAR_LEVELS:
                    pairs.append((one, other))
    return pairs


def _split(
    items: list[Item],
    classes: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    seed: int,
    path: str,
    labels: tuple[str, ...],
) -> tuple[npt.NDArray[np.str_], int]:
    """The split of each image, "" for one that is left out, and the number of those.

    Splits that the folders name are kept. Others are drawn for each class, with duplicates on one side.
    """
    split = np.array([item.split or "" for item in items], "<U10")
    named = bool((split != "").any())
    split[split == ""] = "train" if named else ""
    moved = 0
    if named:
        fixed = {name: set(groups[split == name].tolist()) for name in SPLITS}
        later = {"train": fixed["validation"] | fixed["test"], "validation": fixed["test"]}
        for row, group in enumerate(groups.tolist()):
            if group in later.get(str(split[row]), ()):
                split[row], moved = "left out", moved + 1
    rng = np.random.default_rng(seed)
    free = (split == "train") | (split == "")  # images of no named held-out split
    for name, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
        if named and (split == name).any():
            continue
        for label in range(len(labels)):
            available = (classes == label) & ((split == "train") | (split == ""))
            wanted = max(1, round(share * int(((classes == label) & free).sum())))
            order = rng.permutation(np.unique(groups[available]))
            taken = 0
            for group in order[:-1]:  # at least one group stays for training
                if taken >= wanted:
                    break
                members = (groups == group) & ((split == "train") | (split == ""))
                taken += int((members & available).sum())
                split[members] = name
    split[split == ""] = "train"
    split[split == "left out"] = ""
    for name in SPLITS:
        missing = sorted(set(range(len(labels))) - set(classes[split == name].tolist()))
        if missing and name == "train":
            raise BadData(
                f"The class {labels[missing[0]]!r} in {path} has no images for training, apart from copies of held-out "
                "images: add images to it, or remove it."
            )
        if not (split == name).any():
            raise BadData(f"{path} has too few different images for a {name} split: add images.")
    return split, moved


def _conflicts(groups: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """For each group of duplicates with different labels, two images whose labels differ."""
    first: dict[int, int] = {}
    found: dict[int, tuple[int, int]] = {}
    for row, group in enumerate(groups.tolist()):
        if classes[first.setdefault(group, row)] != classes[row]:
            found.setdefault(group, (first[group], row))
    return list(found.values())


def mirrored_classes(data: OwnData) -> list[tuple[str, str]]:
    """Pairs of classes that are mirror images of each other, by the nearest training image of small copies.

    A pair is one where most mirrored images of the one class are nearest to the other, but few unchanged ones.
    """
    small = _small_copies(data.images)
    train, held_out = data.split == "train", data.split == "validation"
    reference, reference_classes = small[train], data.classes[train]
    found = []
    nearest = {
        mirrored: reference_classes[_nearest(_mirrored(small[held_out]) if mirrored else small[held_out], reference)]
        for mirrored in (False, True)
    }
    truth = data.classes[held_out]
    for a in range(len(data.labels)):
        rows = truth == a
        if rows.sum() < 3:
            continue
        for b in range(len(data.labels)):
            if a != b and (nearest[True][rows] == b).mean() >= 0.5 and (nearest[False][rows] == b).mean() <= 0.2:
                found.append((data.labels[a], data.labels[b]))
    return found


def _small_copies(images: Pixels) -> npt.NDArray[np.float32]:
    step = max(1, images.shape[1] // 14)
    side = images.shape[1] // step * step
    blocks = images[:, :side, :side].reshape(len(images), side // step, step, side // step, step, -1)
    return np.asarray(blocks.mean((2, 4)), np.float32)


def _mirrored(small: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return small[:, :, ::-1]


def _nearest(queries: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The row of `reference` that is nearest to each query."""
    flat, known = queries.reshape(len(queries), -1), reference.reshape(len(reference), -1)
    norms = (known**2).sum(1)
    parts = [(norms - 2 * flat[start : start + 500] @ known.T).argmin(1) for start in range(0, len(flat), 500)]
    return np.concatenate(parts)


# Facts in words.


def _describe(
    found: LabelledImages, items: list[Item], decoded: list[_Decoded], labels: tuple[str, ...], counts: "Counter[str]"
) -> list[str]:
    widths, heights = [image.width for image in decoded], [image.height for image in decoded]
    same = len({(image.width, image.height) for image in decoded}) == 1
    size = f"{widths[0]}x{heights[0]}" if same else (
        f"{min(widths)}x{min(heights)} to {max(widths)}x{max(heights)}, median "
        f"{int(np.median(widths))}x{int(np.median(heights))}"
    )  # fmt: skip
    grey = sum(image.grey for image in decoded)
    tone = (
        "grey" if grey == len(decoded) else "colour" if not grey else f"{grey:,} grey, {len(decoded) - grey:,} colour"
    )
    listed = ", ".join(f"{label} {counts[label]:,}" for label in labels[:30])
    more = f" and {len(labels) - 30} more" if len(labels) > 30 else ""
    largest, smallest = max(counts.values()), min(counts.values())
    lines = [
        f"{found.path}: {len(items):,} images of {len(labels)} classes ({listed}{more}).",
        f"Sizes: {size}; {tone}.",
    ]
    if largest >= IMBALANCE * smallest:
        lines.append(f"Imbalance: the largest class has {largest / smallest:.1f} times the images of the smallest.")
    return lines


def _problem_facts(found: LabelledImages, problems: list[Problem]) -> list[str]:
    lines = []
    if problems:
        named = "; ".join(f"{x.name}: {x.reason.rstrip('.')}" for x in problems[:SHOWN])
        lines.append(f"Not used: {_count(len(problems), 'file')} ({named}{'; …' * (len(problems) > SHOWN)}).")
    if found.hidden:
        lines.append(
            f"Hidden folders passed over: {', '.join(found.hidden[:SHOWN])}{', …' * (len(found.hidden) > SHOWN)}."
        )
    if found.other_files:
        lines.append(f"Other files passed over: {found.other_files:,}.")
    return lines


def _duplicate_facts(
    exact: list[tuple[int, int]],
    near: list[tuple[int, int]],
    moved: int,
    conflicts: list[tuple[int, int]],
    names: list[str],
) -> list[str]:
    lines = []
    if exact or near:
        a, b = (exact or near)[0]
        lines.append(
            f"Duplicates: {len(exact):,} exact, {_count(len(near), 'near pair')} (for example {names[a]} and "
            f"{names[b]}). They stay on one side of the split."
        )
    if moved:
        lines.append(f"{_count(moved, 'image')} left out, because copies are in a later split.")
    if conflicts:
        a, b = conflicts[0]
        lines.append(
            f"Warning: {_count(len(conflicts), 'group')} of duplicates with different labels (for example {names[a]} "
            f"and {names[b]})."
        )
    return lines


def _small_facts(labels: tuple[str, ...], classes: npt.NDArray[np.int64], split: npt.NDArray[Any]) -> list[str]:
    counts = np.bincount(classes, minlength=len(labels))
    small = [label for label, count in zip(labels, counts, strict=True) if count < SMALL_CLASS]
    lines = []
    if small:
        lines.append(
            f"Too small to measure alone (fewer than {SMALL_CLASS} images): {', '.join(small[:SHOWN])}"
            f"{' and others' * (len(small) > SHOWN)}."
        )
    tested = int((split == "test").sum())
    if tested < 100:
        lines.append(f"The test split has {_count(tested, 'image')}: the interval of the accuracy will be wide.")
    return lines


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"
