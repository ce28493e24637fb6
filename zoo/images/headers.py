"""The format and size of an image file from its first bytes, without Pillow or OpenCV."""

from __future__ import annotations  # faster start: annotations stay unevaluated

import importlib
from typing import TYPE_CHECKING, cast

from zoo.images.limits import MAX_SIDE, max_pixels

if TYPE_CHECKING:
    from typing import Protocol

    from zoo.images.formats.common import Header

    class Reader(Protocol):
        """A module of zoo/images/formats."""

        def size(self, data: bytes) -> tuple[int, int]: ...

        def parse(self, data: bytes) -> Header: ...


READ = {  # format → the module of zoo/images/formats that reads it
    "PNG": "png", "JPEG": "jpeg", "WebP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff", "AVIF": "avif",
    "PNM": "pnm",
}  # fmt: skip

_MAGIC: tuple[tuple[int, bytes, str], ...] = (  # offset, bytes, format
    (0, b"\x89PNG", "PNG"), (0, b"\xff\xd8\xff", "JPEG"), (0, b"GIF87a", "GIF"), (0, b"GIF89a", "GIF"),
    (0, b"\x8aMNG", "MNG"), (0, b"\x8bJNG", "JNG"),
    (0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"), (0, b"II+\0", "TIFF"), (0, b"MM\0+", "TIFF"),
    (0, b"IIRO", "ORF"), (0, b"IIRS", "ORF"), (0, b"IIU\0", "RW2"), (0, b"FUJIFILMCCD-RAW", "RAF"),
    (0, b"II\xbc\1", "JPEG XR"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"), (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "PSD"), (0, b"gimp xcf", "XCF"), (0, b"qoif", "QOI"), (0, b"icns", "ICNS"), (0, b"DDS ", "DDS"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"), (0, b"#?RADIANCE", "Radiance HDR"), (0, b"#?RGBE", "Radiance HDR"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"), (0, b"/* XPM */", "XPM"), (0, b"AT&TFORM", "DjVu"), (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"), (0, b"\xc5\xd0\xd3\xc6", "EPS"), (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"SIMPLE  =", "FITS"), (128, b"DICM", "DICOM"), (0, b"\x97JB2\r\n\x1a\n", "JBIG2"), (0, b"P7\n", "PAM"),
    (0, b"PF\n", "PFM"), (0, b"Pf\n", "PFM"), (0, b"\xabKTX ", "KTX"), (0, b"BLP1", "BLP"), (0, b"BLP2", "BLP"),
)  # fmt: skip
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})  # bytes of the information header, by version

START = 256  # bytes of a file that `sniff` needs


def sniff(start: bytes) -> str | None:
    """The format of an image file, supported or not, such as "PNG" or "HEIC". None for other files.

    Args:
        start: at least the first 32 bytes of a file. SVG and XBM are recognised only if their names occur in them.
    """
    for offset, magic, name in _MAGIC:
        if start.startswith(magic, offset):
            return "CR2" if name == "TIFF" and start[8:10] == b"CR" else name
    if start.startswith(b"RIFF"):
        return {b"WEBP": "WebP", b"ACON": "ANI"}.get(start[8:12])
    if start[4:8] == b"ftyp":
        return _brand(start)
    if start.startswith(b"BM"):
        return "BMP" if int.from_bytes(start[14:18], "little") in _BMP_HEADERS else None
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3] in b" \t\r\n#" and len(start) > 3:
        return "PNM" if start[3:4] in b"0123456789#\r\n\t " else None
    if start[:4] in (b"\0\0\1\0", b"\0\0\2\0") and b"\0" < start[4:5] < b"\x80" and start[5:6] == b"\0":
        return "ICO" if start[2] == 1 else "CUR"
    if start[:1] == b"\n" and start[1:2] in b"\0\2\3\4\5" and start[2:3] == b"\1" and start[3:4] in b"\1\2\4\x08":
        return "PCX"
    if start[:2] == b"\x01\xda" and start[2:3] in b"\0\1" and start[3:4] in b"\1\2":
        return "SGI"
    if start[:4] == b"\1\0\0\0" and start[40:44] == b" EMF":
        return "EMF"
    return _text(start)


def _brand(start: bytes) -> str | None:
    """The format of an ISO base media file: its major brand's, or that of the first known compatible brand."""
    length = min(int.from_bytes(start[:4], "big"), len(start))
    for brand in (start[8:12], *(start[at : at + 4] for at in range(16, length - 3, 4))):
        if brand in (b"avif", b"avis"):
            return "AVIF"
        if brand in _HEIC:
            return "HEIC"
        if brand == b"crx ":
            return "CR3"
    return "HEIF" if start[8:12] in (b"mif1", b"msf1", b"mif2") else None


def _text(start: bytes) -> str | None:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"%!PS"):
        return "EPS" if b"EPSF" in text else "PostScript"
    if text.startswith((b"<svg", b"<!DOCTYPE svg")) or (text.startswith((b"<?xml", b"<!--")) and b"<svg" in text):
        return "SVG"
    return "XBM" if text.startswith(b"#define ") and b"_width" in text else None


def reader(format: str) -> Reader:
    """The module that reads a format of `READ`. Imported on demand, because most commands need at most one."""
    return cast("Reader", importlib.import_module(f"zoo.images.formats.{READ[format]}"))


def declared_pixels(data: bytes) -> int:
    """The number of pixels that decoding this file will process, from its header. Takes microseconds, never raises.

    0 for a file that is refused before decoding (too large, not supported, damaged) or whose size is unknown.
    """
    try:
        format = sniff(data[:256])
        if format not in READ:
            return 0
        width, height = reader(format).size(data)
        return width * height if max(width, height) <= MAX_SIDE and width * height <= max_pixels() else 0
    except Exception:
        return 0
