"""JPEG, and the first image of an MPO file. Pillow decodes them, but gets only tables, frame and scans.

Kinds that no camera writes are refused (lossless, arithmetic, hierarchical, 12 bits). So are small files whose scans or
segments would take long, because each scan of a progressive file goes through the whole image again.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from zoo.images.formats.common import (
    UPRIGHT,
    Array,
    DecodeError,
    Header,
    damaged,
    exif_orientation,
    pillow_pixels,
    xmp_orientation,
)
from zoo.images.limits import max_pixels

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_BETWEEN_SCANS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # restart markers are inside a scan
_WITHOUT_SEGMENT = frozenset({0x01, *range(0xD0, 0xD8)})  # markers
_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # start-of-frame markers
_PROGRESSIVE = {0xC0: False, 0xC1: False, 0xC2: True}  # the supported frames: baseline, extended, progressive
_REDUCTIONS = (8, 4, 2)  # of each side, that libjpeg decodes directly
_MAX_MARKERS = 2_000  # more than EXIF, a colour profile in 255 pieces and XMP in a few hundred pieces of 64 kB
_MAX_SCANS = 100  # libjpeg writes 10, mozjpeg up to about 20
_MAX_SCANNED = 30  # multiples of `max_pixels` samples that all scans together go through: 12 ms of work each


@dataclass(frozen=True)
class Frame:
    """The contents of a JPEG up to its first scan."""

    width: int
    height: int
    components: int  # 1 (grey), 3 or 4 (CMYK)
    samples: int  # of all components
    progressive: bool  # or with more than one scan
    segments: tuple[bytes, ...]  # that decoding needs
    start: int  # of the first scan
    orientation: int


def size(data: bytes) -> tuple[int, int]:
    for marker, place, _ in _segments(data):
        if marker in _FRAMES and place + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, place + 3)
            return width, height
    raise damaged("it ends before the image data")


def _segments(data: bytes, limit: int = _MAX_MARKERS) -> Iterator[tuple[int, int, int]]:
    """Marker, start (at its length) and end of each segment, up to the first scan. Raises DecodeError."""
    position = 2
    for _ in range(limit):
        match = _MARKER.search(data, position)
        if not match:
            raise damaged("it ends before the image data")
        marker, position = data[match.end() - 1], match.end()
        if marker in _WITHOUT_SEGMENT:
            continue
        if marker in (_SOI, _EOI):
            raise damaged("it ends before the image data")
        end = position + int.from_bytes(data[position : position + 2], "big")
        if not position + 2 <= end <= len(data):
            raise damaged("it ends before the image data")
        yield marker, position, end
        if marker == _SOS:
            return
        position = end
    raise DecodeError(f"is a JPEG of more than {limit:,} segments: save it again")


def read_frame(data: bytes, max_segments: int = _MAX_MARKERS) -> Frame:
    """Read all segments before the first scan. Raises DecodeError for unsupported files; checks no size limit."""
    segments: list[bytes] = []
    shape: tuple[int, int, int, int] | None = None
    progressive, start, first_scan = False, 0, 0
    orientation = from_xmp = None
    for marker, place, end in _segments(data, max_segments):
        if marker in _FRAMES:
            if shape:
                raise damaged("it declares two frames")
            if marker not in _PROGRESSIVE or data[place + 2] != 8:
                raise DecodeError(
                    "is an unusual JPEG (lossless, arithmetic, hierarchical or 12 bits), which is not supported: "
                    "save it as PNG"
                )
            shape, progressive = _shape(data[place + 2 : end]), _PROGRESSIVE[marker]
        if marker == _SOS:
            start, first_scan = place - 2, data[place + 2]
        elif 0xE0 <= marker <= 0xEF or marker == _COM:
            content = data[place + 2 : end]
            if marker == 0xE1 and content.startswith(b"Exif\0\0") and orientation is None:
                orientation = exif_orientation(content) or 0
            elif marker == 0xE1 and content.startswith(b"http://ns.adobe.com/xap/") and from_xmp is None:
                from_xmp = xmp_orientation(content) or 0
            is_jfif = marker == 0xE0 and content.startswith(b"JFIF\0")
            is_adobe = marker == 0xEE and content.startswith(b"Adobe")
            if is_jfif or is_adobe:  # only these two define the colour space
                segments.append(data[place - 2 : end])
        else:
            segments.append(data[place - 2 : end])
    if not shape:
        raise damaged("it declares no image")
    width, height, components, samples = shape
    return Frame(
        width,
        height,
        components,
        samples,
        progressive or first_scan < components,
        tuple(segments),
        start,
        orientation or from_xmp or UPRIGHT,
    )


def _shape(content: bytes) -> tuple[int, int, int, int]:
    """Width, height, components and samples, from a frame's segment after its length."""
    if len(content) < 6 or len(content) != 6 + 3 * content[5]:
        raise damaged("its frame is cut short")
    height, width, components = struct.unpack_from(">HHB", content, 1)
    factors = [divmod(content[at], 16) for at in range(7, len(content), 3)]
    if not width or not height or components not in (1, 3, 4) or not all(1 <= min(f) and max(f) <= 4 for f in factors):
        raise damaged(f"it declares {width}x{height} pixels of {components} components")
    across, down = max(x for x, _ in factors), max(y for _, y in factors)
    blocks = -(-width // (8 * across)) * -(-height // (8 * down))  # of 8x8 samples, for a factor of 1
    return width, height, components, sum(64 * blocks * x * y for x, y in factors)


@dataclass(frozen=True)
class _Jpeg(Header):
    data: bytes = b""
    frame: Frame | None = None

    def reduced(self, least_side: int) -> Header:
        shorter = min(self.width, self.height)
        return replace(self, reduction=next((factor for factor in _REDUCTIONS if shorter >= factor * least_side), 1))

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        assert self.frame
        return decode(self.data, self.frame, self.reduction)


def parse(data: bytes) -> Header:
    frame = read_frame(data)
    return _Jpeg(
        frame.width,
        frame.height,
        memory(frame) + len(data),
        frame.orientation,
        data=data,
        frame=frame,
    )


def memory(frame: Frame) -> int:
    """Peak bytes: Pillow's image, plus the larger of our array and the coefficients that several scans need."""
    pixels = frame.width * frame.height
    pillow_bytes = pixels * (1 if frame.components == 1 else 4)
    return pillow_bytes + max(2 * frame.samples * frame.progressive, pixels * min(frame.components, 3))


def decode(data: bytes, frame: Frame, reduction: int = 1) -> tuple[Array, tuple[str, ...]]:
    """The pixels and corrections. Raises DecodeError, and any error of Pillow for damaged data.

    Args:
        reduction: 1, or one of `_REDUCTIONS`: how many times smaller the result is. libjpeg then computes fewer
            values of each block of 8x8 pixels; a reduction of 8 leaves its mean.
    """
    if frame.progressive:
        _check_scans(data, frame)
    from PIL import Image

    content = b"".join([b"\xff\xd8", *frame.segments, memoryview(data)[frame.start :]])
    mode, stored = {1: ("L", "L"), 3: ("RGB", "RGB"), 4: ("CMYK", "CMYK;I")}[frame.components]  # inverted, as Adobe's
    size = (-(-frame.width // reduction), -(-frame.height // reduction))
    return pillow_pixels(Image.frombytes(mode, size, content, "jpeg", stored, "", reduction, 0))


def _check_scans(data: bytes, frame: Frame) -> None:
    """Raise DecodeError where there are so many scans that decoding takes long, even if the file is small."""
    max_scans = min(_MAX_SCANS, max(1, _MAX_SCANNED * max_pixels() // frame.samples))
    scans, markers, position = 0, 0, frame.start
    while match := _BETWEEN_SCANS.search(data, position):
        marker, position = data[match.end() - 1], match.end()
        markers += 1
        if marker == _EOI:
            break
        scans += marker == _SOS
        if scans > max_scans:
            raise DecodeError(
                f"is a progressive JPEG of more than {max_scans} scans, too many for its size: save it as a plain JPEG"
            )
        if markers > _MAX_MARKERS:
            raise DecodeError(f"is a JPEG of more than {_MAX_MARKERS:,} segments: save it again")
        if marker not in _WITHOUT_SEGMENT:
            position += int.from_bytes(data[position : position + 2], "big")
