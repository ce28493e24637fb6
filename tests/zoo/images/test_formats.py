"""Every variant of a supported format gives Pillow's pixels, and bad metadata never make a picture fail."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from tests.support.bombs import chunk, encoded, exif, strip
from zoo.errors import BadInput
from zoo.images.read import decode


def smooth(height=37, width=53):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 2))


def in_mode(mode):
    rgb = smooth()
    if mode in ("RGBA", "LA"):
        image = rgb.convert(mode[:-1])
        image.putalpha(rgb.convert("L"))
        return image
    return rgb.quantize(40) if mode == "P" else rgb.convert(mode)


def by_pillow(data):
    """The first frame as Pillow shows it, uint8 `(H, W, C)`."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("P", "CMYK"):
        image = image.convert("RGB")
    if image.mode == "1":
        image = image.convert("L")
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_tiff_agrees_with_pillow(mode, compression):
    if compression == "jpeg" and mode not in ("L", "RGB"):
        pytest.skip("no JPEG is written for this mode, or it is not read")
    for rows in (1000, 8, 1):
        if compression == "jpeg" and rows < 8:
            continue
        data = encoded(in_mode(mode), "TIFF", compression=compression, tiffinfo={278: rows})
        picture = decode(data)
        np.testing.assert_array_equal(picture.pixels, by_pillow(data))
        assert picture.corrections == (("converted from CMYK",) if mode == "CMYK" else ())


@pytest.mark.parametrize("options", [
    {}, {"tile": (16, 32)}, {"compression": "zlib"}, {"compression": "zlib", "tile": (32, 16)}, {"rowsperstrip": 5},
    {"compression": "zlib", "predictor": True, "rowsperstrip": 7}, {"byteorder": ">"},
    {"byteorder": ">", "compression": "zlib", "predictor": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", ["grey", "rgb", "planes", "rgba", "associated"])
def test_tiff_agrees_with_tifffile(layout, dtype, options):
    rgb = np.asarray(smooth()).astype(dtype) * dtype(257 if dtype == np.uint16 else 1)
    alpha = np.full_like(rgb[:, :, :1], np.iinfo(dtype).max)
    array, settings = {
        "grey": (rgb[:, :, 0], {"photometric": "minisblack"}),
        "rgb": (rgb, {"photometric": "rgb"}),
        "planes": (rgb.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
        "rgba": (np.dstack([rgb, alpha]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        "associated": (np.dstack([rgb, alpha]), {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
    }[layout]
    file = io.BytesIO()
    tifffile.imwrite(file, np.ascontiguousarray(array), **settings, **options)
    expected = array.transpose(1, 2, 0) if layout == "planes" else array.reshape(37, 53, -1)
    np.testing.assert_array_equal(decode(file.getvalue()).pixels, expected // dtype(257 if dtype == np.uint16 else 1))


def test_tiff_premultiplied_alpha_is_undone():
    data = bytes([10, 20, 30, 51, 200, 100, 0, 255, 9, 9, 9, 0, 90, 50, 40, 50])
    pixels = decode(strip(2, 2, data, samples=4, **{"338": [1]})).pixels
    assert pixels.reshape(4, 4).tolist() == [[50, 100, 150, 51], [200, 100, 0, 255], [0, 0, 0, 0], [255, 255, 204, 50]]


def test_tiff_of_2_4_and_12_bits_and_float_differences():
    assert decode(strip(3, 1, b"\x1b", bits=2)).pixels.ravel().tolist() == [0, 85, 170]
    assert decode(strip(3, 2, b"\x0f\x10\xa0\x50", bits=4)).pixels.ravel().tolist() == [0, 255, 17, 170, 0, 85]
    values = np.array([[0, 1365, 4095], [2730, 4095, 273]])
    packed = b"".join(sum(int(v) << 12 * (3 - k) for k, v in enumerate(row)).to_bytes(6, "big")[:5] for row in values)
    assert decode(strip(3, 2, packed, bits=12)).pixels.reshape(2, 3).tolist() == [[0, 85, 255], [170, 255, 17]]
    assert decode(strip(3, 1, b"\xd8", bits=2, **{"266": [2]})).pixels.ravel().tolist() == [0, 85, 170]  # bits reversed
    inverted = decode(strip(2, 1, b"\0\xfa", **{"262": [0]})).pixels.ravel().tolist()  # white is zero
    assert inverted == [255, 5]
    floats = np.array([[0.0, 0.25, 1.0], [0.5, 1.0, 0.125]], ">f4")
    planes = floats.view(np.uint8).reshape(2, 3, 4).transpose(0, 2, 1).reshape(2, 12)
    differences = np.diff(planes, axis=1, prepend=np.uint8(0)).astype(np.uint8)
    data = strip(3, 2, zlib.compress(differences.tobytes()), 8, 32, **{"317": [3], "339": [3]})
    assert decode(data).pixels.reshape(2, 3).tolist() == [[0, 64, 255], [128, 255, 32]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["TIFF", "JPEG", "PNG", "WEBP"])
def test_orientations_agree_with_pillow(form, orientation):
    options = {"lossless": True} if form == "WEBP" else {}
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = encoded(smooth(), form, exif=tags, **options)
    picture = decode(data)
    np.testing.assert_array_equal(picture.pixels, by_pillow(data))
    assert picture.corrections == (("rotated upright (EXIF orientation)",) if orientation > 1 else ())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_agrees_with_pillow(mode, interlaced):
    image = (
        Image.fromarray(np.asarray(smooth().convert("L")).astype(np.uint16) * 257) if mode == "I;16" else in_mode(mode)
    )
    data = encoded(image, "PNG")
    if interlaced:
        data = adam7(data)
    expected = by_pillow(data)
    np.testing.assert_array_equal(decode(data).pixels, expected // 257 if mode == "I;16" else expected)


def adam7(data):
    """The same PNG interlaced, for depths of 8 and 16; for 1 bit as it is."""
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if depth < 8:
        return data
    size = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth // 8
    image = Image.open(io.BytesIO(data))
    pixels = np.asarray(image).astype(">u2" if depth == 16 else "u1").reshape(height, width, -1)
    rows = []
    for x, dx, y, dy in (
        (0, 8, 0, 8),
        (4, 8, 0, 8),
        (0, 4, 4, 8),
        (2, 4, 0, 4),
        (0, 2, 2, 4),
        (1, 2, 0, 2),
        (0, 1, 1, 2),
    ):
        rows += [b"\0" + row.tobytes() for row in pixels[y::dy, x::dx] if row.size]
    assert all((len(row) - 1) % size == 0 for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 1)
    start, end = data.index(b"IDAT") - 4, data.rindex(b"IEND") - 4
    return (
        data[:8] + chunk(b"IHDR", header) + data[33:start] + chunk(b"IDAT", zlib.compress(b"".join(rows))) + data[end:]
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}, {"quality": 5}], ids=str)
def test_webp_agrees_with_pillow(mode, options):
    data = encoded(in_mode(mode), "WEBP", **options)
    np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))


def test_webp_frame_smaller_than_canvas_is_transparent_around():
    first = Image.new("RGBA", (40, 30))
    first.paste((200, 10, 30, 255), (8, 6, 20, 16))
    data = encoded(
        first, "WEBP", save_all=True, append_images=[Image.new("RGBA", (40, 30), (9, 9, 9, 255))], lossless=True
    )
    assert b"ANMF" in data
    np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_gif_agrees_with_pillow(mode):
    image = in_mode(mode)
    for options in ({}, {"transparency": 3}, {"interlace": 0}, {"comment": b"x" * 1000}):
        data = encoded(image, "GIF", **options)
        np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))


@pytest.mark.parametrize("options", [{}, {"transparency": 3}], ids=str)
def test_gif_frame_smaller_than_screen_agrees_with_pillow(options):
    data = bytearray(encoded(in_mode("P"), "GIF", **options))
    data[6:10] = struct.pack("<HH", 70, 60)
    np.testing.assert_array_equal(decode(bytes(data)).pixels, by_pillow(data))
    place = data.index(b"," + bytes(4))
    data[place + 1 : place + 5] = struct.pack("<HH", 5, 9)
    picture = decode(bytes(data))
    np.testing.assert_array_equal(picture.pixels, by_pillow(data))
    assert picture.pixels.shape[:2] == (60, 70)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_bmp_agrees_with_pillow(mode):
    data = encoded(in_mode(mode), "BMP")
    np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}], ids=str)
def test_jpeg_agrees_with_pillow(mode, options):
    data = encoded(in_mode(mode), "JPEG", **options)
    np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))
    np.testing.assert_array_equal(decode(data[:2] + b"\xff" * 9 + data[2:] + b"after the end").pixels, by_pillow(data))


def test_large_images_agree_with_pillow_in_every_mode():
    """Images of more than a million pixels are converted in strips."""
    rgb = smooth(1030, 1030)
    for image in (rgb, rgb.convert("P"), rgb.convert("1")):
        data = encoded(image, "PNG", compress_level=1)
        np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))
    for image in (rgb, rgb.convert("CMYK")):
        data = encoded(image, "JPEG")
        np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_pnm_agrees_with_pillow(mode):
    data = encoded(in_mode(mode), "PPM")
    np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))
    commented = data.replace(b"\n", b"\n# a comment\n", 1)
    np.testing.assert_array_equal(decode(commented).pixels, by_pillow(data))


def test_pgm_values_are_scaled_by_declared_maximum():
    assert decode(b"P5 3 1 15\n\0\x07\x0f").pixels.ravel().tolist() == [0, 119, 255]
    assert decode(b"P5 2 1 1\n\0\1").pixels.ravel().tolist() == [0, 255]
    for bad in (b"P5 3 1 15\n\0\7", b"P5 0 1 15\n\0", b"P5 1 1 70000\n\0\0", b"P5 1 x 15\n\0", b"P5 1 1"):
        with pytest.raises(BadInput, match="damaged or cut short"):
            decode(bad)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_avif_agrees_with_pillow(mode):
    data = encoded(in_mode(mode), "AVIF")
    np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))
    turned = encoded(in_mode(mode), "AVIF", exif=with_orientation(6))
    np.testing.assert_array_equal(decode(turned).pixels, by_pillow(turned))


def with_orientation(value):
    tags = Image.Exif()
    tags[0x0112] = value
    return tags


# Metadata


def with_chunk(content, after=False):
    plain = encoded(smooth(), "PNG")
    return plain[:-12] + content + plain[-12:] if after else plain[:33] + content + plain[33:]


def wrong(kind, content):
    """A chunk whose checksum is wrong."""
    return chunk(kind, content)[:-4] + b"\0\0\0\0"


BROKEN_CHUNKS = {
    "EXIF without a header": chunk(b"eXIf", bytes.fromhex("0008000201120003")),
    "EXIF that is cut short": chunk(b"eXIf", exif(6)[:15]),
    "EXIF with a wrong checksum": wrong(b"eXIf", exif(6)),
    "a profile that is not hexadecimal": chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 12\nzz not hex zz\n")
    ),
    "a text that does not inflate": chunk(b"zTXt", b"Comment\0\0\x78\x9c\xff\xff\xff\xff"),
    "3 MB of text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 3_000_000)),
    "60 MB of EXIF in a profile": lambda: chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n" * 60_000_000)
    ),
    "60 MB of XMP": lambda: chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<" * 60_000_000)),
    "a text with a wrong checksum": wrong(b"tEXt", b"Comment\0hello"),
    "a text without its end": chunk(b"iTXt", b"XML:com.adobe.xmp"),
    "a colour profile that does not inflate": chunk(b"iCCP", b"p\0\0\xff\xff\xff\xff"),
    "a transparency of no length": chunk(b"tRNS", b""),
    "an animation of no length": chunk(b"acTL", b""),
    "5,000 empty texts": chunk(b"tEXt", b"a\0") * 5000,
    "an unknown chunk": chunk(b"vpAg", b"anything"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
@pytest.mark.parametrize("after", [False, True])
def test_damaged_ancillary_png_chunks_are_ignored(name, after):
    content = BROKEN_CHUNKS[name]
    picture = decode(with_chunk(content() if callable(content) else content, after))
    np.testing.assert_array_equal(picture.pixels, np.asarray(smooth()))
    assert picture.corrections in ((), ("used the first frame",))


def test_png_end_may_be_missing_or_followed_by_data():
    plain = encoded(smooth(), "PNG")
    for data in (plain + b"\0" * 1000 + b"GIF89a", plain[:-12], plain[:-5], plain + chunk(b"IDAT", b"zz"),
                 plain[:-12] + b"rubbish that is no chunk"):  # fmt: skip
        np.testing.assert_array_equal(decode(data).pixels, np.asarray(smooth()))


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"PLTE", b"IEND"])
def test_damaged_critical_png_chunk_is_refused(kind):
    plain = encoded(smooth().quantize(30), "PNG")
    place = plain.index(kind)
    end = place + 4 + int.from_bytes(plain[place - 4 : place], "big")
    with pytest.raises(BadInput, match="checksum"):
        decode(plain[:end] + bytes([plain[end] ^ 1]) + plain[end + 1 :])


def test_unknown_critical_png_chunk_is_refused():
    with pytest.raises(BadInput, match="a CgBI chunk"):
        decode(with_chunk(chunk(b"CgBI", b"\x50\0\x20\2")))
    with pytest.raises(BadInput, match="more than 20,000 chunks"):
        decode(with_chunk(chunk(b"tEXt", b"a\0") * 20_001))


def entries(*fields, extra=b""):
    """EXIF of entries `(tag, type, count, 4 bytes)`, little-endian."""
    body = struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHI", *field[:3]) + field[3] for field in fields)
    return b"II*\0\x08\0\0\0" + body + bytes(4) + extra


TURNED = (0x0112, 3, 1, b"\6\0\0\0")
AFTER = (8 + 2 + 2 * 12 + 4).to_bytes(4, "little")
ODD_EXIF = {  # → whether it turns the picture
    "nothing": (b"", False),
    "garbage": (b"\x07garbage that is no TIFF header", False),
    "doubled prefix": (b"Exif\0\0" + entries(TURNED), True),
    "rational of zero": (entries(TURNED, (0x011A, 5, 1, AFTER), extra=struct.pack("<II", 2**32 - 1, 0)), True),
    "signed rational of zero": (entries(TURNED, (0x9204, 10, 1, AFTER), extra=struct.pack("<ii", -1, 0)), True),
    "offset beyond the end": (entries(TURNED, (0x010F, 2, 40, struct.pack("<I", 60_000))), True),
    "unknown type": (entries(TURNED, (0x9999, 77, 1, b"\1\0\0\0")), True),
    "loop of directories": (entries(TURNED, (0x8769, 4, 1, struct.pack("<I", 8))), True),
    "wrong type of GPS": (entries(TURNED, (0x8825, 2, 4, b"abc\0")), True),
    "orientation as long": (entries((0x0112, 4, 1, b"\6\0\0\0")), True),
    "orientation as byte": (entries((0x0112, 1, 1, b"\6\0\0\0")), True),
    "orientation as text": (entries((0x0112, 2, 2, b"6\0\0\0")), False),
    "two orientations": (entries((0x0112, 3, 2, b"\6\0\6\0")), True),
    "many orientations": (entries((0x0112, 3, 3, b"\6\0\0\0")), False),
    "orientation of 0": (entries((0x0112, 3, 1, bytes(4))), False),
    "orientation of 9": (entries((0x0112, 3, 1, b"\x09\0\0\0")), False),
    "big-endian": (b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0", True),
    "more entries than there are": (b"II*\0\x08\0\0\0\xff\xff\x12\1\3\0\1\0\0\0\6\0\0\0", True),
    "directory beyond the end": (b"II*\0\xff\xff\xff\x7f\0\0", False),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_EXIF)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_unusual_exif_is_applied_or_ignored(name, form):
    content, turned = ODD_EXIF[name]
    plain = encoded(smooth(), form, **({"lossless": True} if form == "WEBP" else {}))
    if form == "JPEG":
        payload = b"Exif\0\0" + content
        data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + plain[2:]
    elif form == "PNG":
        data = plain[:33] + chunk(b"eXIf", content) + plain[33:]
    else:
        body = plain[12:] + b"EXIF" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        data = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    expected = decode(plain).pixels
    picture = decode(data)
    np.testing.assert_array_equal(picture.pixels, np.rot90(expected, -1) if turned else expected)
    assert picture.corrections == (("rotated upright (EXIF orientation)",) if turned else ())


# Images that Pillow opened


@pytest.mark.parametrize("form", ["TIFF", "JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
@pytest.mark.parametrize("where", ["path", "bytes"])
def test_unloaded_pillow_image_equals_its_file(form, where, tmp_path):
    options = {} if form in ("GIF", "BMP", "AVIF") else {"exif": with_orientation(6)}
    data = encoded(smooth().quantize(30) if form == "GIF" else smooth(), form, **options)
    path = tmp_path / "picture"
    path.write_bytes(data)
    expected = decode(path)
    assert ("rotated upright (EXIF orientation)" in expected.corrections) == bool(options)
    with Image.open(path if where == "path" else io.BytesIO(data)) as image:
        before = image.size, image.mode, image.tell(), image.fp.tell()
        picture = decode(image)
        assert (image.size, image.mode, image.tell(), image.fp.tell()) == before
        np.testing.assert_array_equal(picture.pixels, expected.pixels)
        assert picture.corrections == expected.corrections
        image.load()  # nothing of it was closed
        loaded = np.asarray(image)
        np.testing.assert_array_equal(decode(image).pixels, expected.pixels)
        np.testing.assert_array_equal(np.asarray(image), loaded)


def test_pillow_image_of_unsupported_format_is_decoded_by_pillow():
    image = Image.open(io.BytesIO(encoded(smooth(), "TGA")))
    np.testing.assert_array_equal(decode(image).pixels, np.asarray(smooth()))


def test_changed_or_closed_pillow_image():
    image = Image.open(io.BytesIO(encoded(smooth(), "PNG")))
    image.putpixel((0, 0), (1, 2, 3))
    assert decode(image).pixels[0, 0].tolist() == [1, 2, 3]
    draft = Image.open(io.BytesIO(encoded(smooth(400, 400), "JPEG")))
    draft.draft("RGB", (100, 100))
    assert decode(draft).pixels.shape == (100, 100, 3)
    image = Image.open(io.BytesIO(encoded(smooth(), "PNG")))
    image.close()
    with pytest.raises(BadInput):
        decode(image)
