"""Blocks: consecutive images that are classified together, in this process or in a worker, and their answer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from serve.batch.archives import Unreadable
from serve.batch.formats import NAME_WIDTH, Encoding, encode
from serve.batch.inputs import Source, Url, held_bytes, name_of
from zoo.card import Input
from zoo.images.photos import Fit
from zoo.images.read import Named
from zoo.model import CHUNK, Model, Prepared, Row, classify_prepared, prepare_all

BLOCK = 128  # images that a worker gets at a time: enough that handing them over costs nothing
BLOCK_BYTES = 8 * 2**20  # of images that are handed over as bytes


@dataclass(frozen=True)
class Job:
    """What is done to every image.

    encoding: what becomes of the rows, None to leave them rows. width: of a table's column of names.
    identify: whether blocks tell which images they were, so that a run that is resumed can see whether its inputs are
    still the same.
    """

    model: Model
    top_k: int = 3
    fit: Fit = "crop"
    encoding: Encoding | None = None
    width: int = NAME_WIDTH
    identify: bool = False


@dataclass(frozen=True)
class Block:
    """The answer for consecutive images.

    payload: the rows, encoded as the job says. count: how many. failed: sentence without the name → how many rows.
    first_error: the first failed row's sentence, or None. identities: of each image, 8 bytes, where the job asks so.
    """

    payload: Any
    count: int
    failed: Counter[str] = field(default_factory=Counter)
    first_error: str | None = None
    identities: bytes = b""


def cut(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """Consecutive images in lists of `BLOCK`, or fewer where they are large; the same cuts for the same images."""
    block: list[Source] = []
    size = 0
    for source in sources:
        block.append(source)
        size += held_bytes(source)
        if len(block) == BLOCK or size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def identities(sources: list[Source]) -> bytes:
    """8 bytes an image: of name, size and time of a file, of name and content of what is not a file."""
    return b"".join(map(_identity, sources))


def _identity(source: Source) -> bytes:
    if isinstance(source, Unreadable) and source.original is not None:
        return _identity(source.original)
    digest = blake2b(name_of(source).encode(errors="surrogatepass") + b"\0", digest_size=8)
    if isinstance(source, Named):
        digest.update(source.data)
    elif isinstance(source, str):
        try:
            status = os.stat(source)
            digest.update(b"%d %d" % (status.st_size, status.st_mtime_ns))
        except (OSError, ValueError):
            digest.update(b"none")
    return digest.digest()


def smaller(cuts: Iterable[list[Source]]) -> Iterator[list[Source]]:
    """Lists of one session call each, so that the first rows are there at once."""
    for sources in cuts:
        for start in range(0, len(sources), CHUNK):
            yield sources[start : start + CHUNK]


def classify(job: Job, sources: list[Source]) -> Block:
    """One block, here and now."""
    rows: list[Row] = []
    for chunk in smaller([sources]):
        rows += classify_prepared(job.model, ready(chunk, job.model.card.input, job.fit), job.top_k)
    return encoded(job, rows, identities(sources) if job.identify else b"")


def encoded(job: Job, rows: list[Row], identities: bytes) -> Block:
    """The block of these rows."""
    errors = [row for row in rows if row.error is not None]
    failed = Counter((row.error or "").removeprefix(f"{row.input} ") for row in errors)
    payload = rows if job.encoding is None else encode(rows, job.encoding, job.width)
    return Block(payload, len(rows), failed, errors[0].error if errors else None, identities)


def ready(sources: list[Source], expected: Input, fit: Fit) -> list[Prepared]:
    """Images as the network takes them; what cannot be had keeps its place with a sentence."""
    addresses = [source.name for source in sources if isinstance(source, Url)]
    answers: Iterator[Source] = iter(())
    if addresses:
        from serve.batch.urls import fetch_all

        answers = iter(fetch_all(addresses))
    fetched = [next(answers) if isinstance(source, Url) else source for source in sources]
    pictures = [source for source in fetched if not isinstance(source, Unreadable)]
    prepared = iter(prepare_all(pictures, expected, fit))
    return [
        Prepared(source.name, None, error=source.error) if isinstance(source, Unreadable) else next(prepared)
        for source in fetched
    ]
