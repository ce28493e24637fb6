"""Small files that claim much work, most of just under 25 million pixels, and what decoding them costs.

`python -m tests.support.bombs` decodes each in a process of its own and prints a line of JSON for it.
"""

import io
import json
import os
import resource
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

from PIL import Image

SIDE = 5000  # a side of 25 million pixels
GREY, COLOUR, PAINT = 90, (9, 200, 40), (1, 2, 3, 128)


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png(width, height, depth, colour, row, before=b"", interlace=0):
    """A PNG whose rows are all alike; interlaced where `row` is the whole of the data before compression."""
    packer = zlib.compressobj(1)
    body = [packer.compress(row)] if interlace else [packer.compress(b"\0" + row) for _ in range(height)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = b"".join([*body, packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def exif(orientation):
    return b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0" + bytes([orientation, 0]) + bytes(6)


def tiff(tags, data, order="<"):
    """A TIFF of one directory: tags as `{tag: values}`, all written as LONG; the strip's data come after it."""
    count = {tag: len(values) for tag, values in tags.items()}
    position = 8 + 2 + 12 * len(tags) + 4
    entries, extra = [], b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            entries.append(struct.pack(order + "HHII", tag, 4, count[tag], position + len(extra)))
            extra += packed
        else:
            entries.append(struct.pack(order + "HHI", tag, 4, 1) + packed)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + struct.pack(order + "H", len(tags)) + b"".join(entries) + bytes(4) + extra + data


def strip(width, height, data, compression=1, bits=8, samples=1, **changes):
    """A TIFF of one strip that declares so many pixels, whatever the data hold."""
    tags = {
        256: [width], 257: [height], 258: [bits] * samples, 259: [compression], 262: [2 if samples > 2 else 1],
        273: [0], 277: [samples], 278: [height], 279: [len(data)],
    } | {int(tag): values for tag, values in changes.items()}  # fmt: skip
    tags[273] = [len(tiff(tags, b""))]
    return tiff(tags, data)


def repeated_scans(side, most, which):
    """A progressive JPEG one of whose scans is repeated until there are that many."""
    data = encoded(Image.new("L", (side, side), GREY), "JPEG", progressive=True, quality=1)
    starts = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    tables = data.rindex(b"\xff\xc4", 0, starts[which])
    end = data.find(b"\xff\xc4", starts[which])
    scan = data[tables : end if end > 0 else -2]
    return data[:-2] + scan * (most - len(starts)) + b"\xff\xd9"


def chained_tiff(directories):
    """A picture of one pixel, and a chain of directories after it."""
    tags = {256: [1], 257: [1], 258: [8], 259: [1], 262: [1], 273: [8], 277: [1], 278: [1], 279: [1]}
    first = bytearray(tiff(tags, b""))
    small = [
        struct.pack("<HHHII", 1, 256, 3, 1, 1) + struct.pack("<I", len(first) + 18 * (k + 1))
        for k in range(directories)
    ]
    first[8 + 2 + 12 * len(tags) :] = struct.pack("<I", len(first))
    return bytes(first) + b"".join(small)


def frames(count):
    """A GIF of one pixel with so many frames."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    return head + (b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0") * count + b";"


def run_length_bmp(side):
    rows = (b"\xff\0" * (side // 255) + bytes([side % 255, 0]) + b"\0\0") * side + b"\0\1"
    sizes = struct.pack("<IHHI", 54 + 1024 + len(rows), 0, 0, 54 + 1024)
    return (
        b"BM"
        + sizes
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
        + bytes(1024)
        + rows
    )


def icon(data):
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(data), 22) + data


def declaring(side, avif):
    """An AVIF whose container declares another size than its picture has."""
    at = avif.index(b"ispe") + 8
    return avif[:at] + struct.pack(">II", side, side) + avif[at + 8 :]


def lossless(size, mode, colour, **options):
    return encoded(Image.new(mode, size, colour), "WEBP", lossless=True, method=0, **options)


def palette():
    return chunk(b"PLTE", bytes(range(6))) + chunk(b"tRNS", b"\x10\x80")


S = SIDE
LARGE = {  # name → what makes it: files that are decoded
    "png-1-bit": lambda: png(S, S, 1, 0, bytes(S // 8)),
    "png-grey": lambda: png(S, S, 8, 0, bytes(S)),
    "png-grey-16": lambda: png(S, S, 16, 0, b"\x12\x34" * S),
    "png-grey-alpha": lambda: png(S, S, 8, 4, b"\x12\x34" * S),
    "png-rgb-turned": lambda: png(S, S, 8, 2, b"\1\2\3" * S, chunk(b"eXIf", exif(6))),
    "png-rgb-interlaced": lambda: png(2504, 2504, 8, 2, bytes(2504 * 2504 * 3 + 5 * 2504), interlace=1),
    "png-rgb-16": lambda: png(4300, 4300, 16, 2, b"\1\2\3\4\5\6" * 4300),
    "png-rgba": lambda: png(S, S, 8, 6, b"\x10\x20\x30\x80" * S),
    "png-rgba-opaque": lambda: png(S, S, 8, 6, b"\x10\x20\x30\xff" * S),
    "png-rgba-turned": lambda: png(S, S, 8, 6, b"\x10\x20\x30\x80" * S, chunk(b"eXIf", exif(5))),
    "png-rgba-16": lambda: png(3800, 3800, 16, 6, b"\x10\x20\x30\x80\x10\x20\x30\x80" * 3800),
    "png-palette": lambda: png(S, S, 8, 3, bytes(S), palette()),
    "png-strip": lambda: png(65_535, 381, 8, 2, bytes(3 * 65_535)),
    "jpeg-grey": lambda: encoded(Image.new("L", (S, S), GREY), "JPEG"),
    "jpeg-rgb": lambda: encoded(Image.new("RGB", (S, S), COLOUR), "JPEG", subsampling=0),
    "jpeg-cmyk": lambda: encoded(Image.new("CMYK", (S, S)), "JPEG", quality=1),
    "jpeg-progressive": lambda: encoded(
        Image.new("RGB", (4900, 4900), COLOUR), "JPEG", progressive=True, subsampling=0
    ),
    "jpeg-scans": lambda: repeated_scans(S, 29, 1),
    "jpeg-refinements": lambda: repeated_scans(S, 29, 5),
    "webp-rgb": lambda: lossless((S, S), "RGB", COLOUR),
    "webp-rgba": lambda: lossless((S, S), "RGBA", PAINT),
    "webp-animated": lambda: lossless(
        (3500, 3500), "RGBA", PAINT, save_all=True, append_images=[Image.new("RGBA", (3500, 3500), PAINT)]
    ),
    "gif": lambda: encoded(Image.new("P", (S, S)), "GIF"),
    "bmp-rgb": lambda: encoded(Image.new("RGB", (3800, 3800), COLOUR), "BMP"),
    "bmp-1-bit": lambda: encoded(Image.new("1", (S, S)), "BMP"),
    "tiff-deflate": lambda: encoded(Image.new("L", (S, S)), "TIFF", compression="tiff_deflate"),
    "tiff-lzw": lambda: encoded(Image.new("RGB", (S, S)), "TIFF", compression="tiff_lzw"),
    "tiff-one-strip": lambda: strip(S, S, zlib.compress(bytes(3 * S * S)), 8, 8, 3),
    "tiff-packbits": lambda: strip(S, S, (b"\x81\x40" * 40 * S)[: 2 * (S * S // 128) + 2], 32773),
    "tiff-float": lambda: encoded(Image.new("F", (S, S), 0.5), "TIFF", compression="tiff_deflate"),
    "tiff-int32": lambda: encoded(Image.new("I", (S, S), 5), "TIFF", compression="tiff_deflate"),
    "tiff-jpeg": lambda: encoded(Image.new("RGB", (S, S), COLOUR), "TIFF", compression="jpeg"),
    "tiff-cmyk": lambda: encoded(Image.new("CMYK", (S, S)), "TIFF", compression="tiff_lzw"),
    "pgm-16": lambda: b"P5 5000 1600 65535\n" + b"\1\2" * 8_000_000,
    "pbm": lambda: b"P4 5000 5000\n" + bytes(625 * 5000),
    "avif": lambda: encoded(Image.new("RGB", (2980, 2980), COLOUR), "AVIF", quality=0, speed=10),
    "avif-rgba": lambda: encoded(Image.new("RGBA", (2000, 2000), PAINT), "AVIF", subsampling="4:4:4", speed=10),
    "gif-frames": lambda: frames(1_000_000),
    "tiff-chain": lambda: chained_tiff(100_000),
}
HEAVIEST = (  # of each way to decode, what took the most memory or time: tests decode these
    "png-grey-16", "png-rgba-turned", "png-rgba-16", "png-palette", "jpeg-progressive", "jpeg-refinements", "webp-rgba",
    "gif", "bmp-rgb", "tiff-lzw", "tiff-cmyk", "avif", "gif-frames", "tiff-chain",
)  # fmt: skip
REFUSED = {  # name → what makes it, and a word of the sentence
    "png-too-large": (lambda: png(60_000, 60_000, 1, 0, bytes(7500), interlace=1), "million"),
    "png-rgba-16-25": (lambda: png(S, S, 16, 6, bytes(8 * S), interlace=1), "MB to decode"),
    "jpeg-too-large": (
        lambda: encoded(Image.new("L", (400, 400)), "JPEG").replace(b"\x08\1\x90\1\x90", b"\x08\x24\xb8\x24\xb8"),
        "9400x9400 pixels, more than the limit of 25 million",
    ),
    "jpeg-1000-scans": (lambda: repeated_scans(2000, 1000, 5), "scans"),
    "jpeg-empty-segments": (lambda: b"\xff\xd8" + b"\xff\xe5\0\2" * 3_900_000 + b"\xff\xd9", "segments"),
    "jpeg-comments": (lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 3_900_000 + b"\xff\xd9", "segments"),
    "jpeg-fill-bytes": (lambda: b"\xff\xd8" + b"\xff" * 15_600_000 + b"\0", "ends before"),
    "webp-too-large": (
        lambda: b"RIFF\x20\0\0\0WEBPVP8L\x13\0\0\0\x2f" + struct.pack("<I", 9399 | 9399 << 14) + bytes(15), "9400x9400",
    ),
    "avif-too-large": (lambda: declaring(8192, encoded(Image.new("RGB", (64, 64)), "AVIF")), "8192x8192"),
    "icon": (lambda: icon(png(13_300, 13_300, 8, 6, bytes(4), interlace=1)), "format ICO"),
    "bmp-run-length": (lambda: run_length_bmp(S), "run-length"),
    "ppm-comment": (lambda: b"P5\n#" + b"x" * 15_900_000 + b"\n1 1 255\n\0", "header"),
    "ppm-text": (lambda: b"P2 2700 2700 255\n" + b"0 " * 7_290_000, "in text form"),
    "gif-comment": (lambda: frames(1)[:19] + b"!\xfe" + b"\1x" * 7_000_000 + b"\0" + frames(1)[19:], "first frame"),
    "tiff-fax": (lambda: encoded(Image.new("1", (S, S)), "TIFF", compression="group4"), "CCITT"),
    "tiff-huge-tile": (
        lambda: strip(10, 10, bytes(100), 8, **{"322": [60_000], "323": [60_000], "324": [8], "325": [100]}),
        "much larger",
    ),
    "qoi": (lambda: b"qoif" + struct.pack(">IIBB", S, S, 4, 0) + b"\xfd" * (S * S // 62), "format QOI"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n{} loop\n%%EOF\n", "format EPS"),
    "svg": (lambda: b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><svg><text>&a;</text></svg>', "format SVG"),
}  # fmt: skip


def cost(data):
    """What preparing a file takes at most: MB above what the process had, CPU seconds, and the error."""
    from zoo.card import Input
    from zoo.errors import BadInput
    from zoo.images.prepare import prepare
    from zoo.images.read import Named

    seconds, error = 0.0, None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for expected in (Input(28, 28, 1, "digit"), Input(32, 32, 3, "photo")):
        started = time.process_time()
        try:
            prepare(Named("bomb", data), expected, "whole")
        except BadInput as refused:
            error = str(refused)
        seconds = max(seconds, time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"mb": round((peak - before) / 1024, 1), "seconds": round(seconds, 3), "error": error}


def in_a_child(work):
    """Run in a process of its own, which leaves nothing behind in this one; whether it ended well."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def main(*names):
    from PIL import AvifImagePlugin, GifImagePlugin, JpegImagePlugin, TiffImagePlugin  # noqa: F401

    from zoo.images.headers import READ, reader
    from zoo.images.prepare import prepare  # noqa: F401

    for format in READ:
        reader(format)
    makers = LARGE | {name: make for name, (make, _) in REFUSED.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name in names or makers:
            file = Path(folder, name)
            in_a_child(lambda file=file, name=name: file.write_bytes(makers[name]()))
            data = file.read_bytes()
            file.unlink()
            in_a_child(
                lambda data=data, name=name: print(
                    json.dumps({"name": name, "bytes": len(data)} | cost(data)), flush=True
                )
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
