"""What a file declares: all that its decoding needs. Apart from the rest, for the smallest files need none of it."""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

from dataclasses import dataclass

from zoo.formats.common import Array


@dataclass(frozen=True)
class Header:
    """What a file declares.

    memory: bytes that decoding takes at its peak, beside the file and any copy of it.
    orientation: as EXIF counts, 1 to 8. notes: what decoding does to the picture, in words.
    """

    width: int
    height: int
    memory: int
    orientation: int = 1
    notes: tuple[str, ...] = ()

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        """`(H, W, C)`, C 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied), and further notes.

        Any integer or float dtype. Raises Refused, and whatever a decoder raises for damaged data.
        """
        raise NotImplementedError
