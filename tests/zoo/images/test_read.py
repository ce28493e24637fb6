"""Decoding: every kind of source gives upright 8-bit pixels or BadInput, and both decoders agree to the bit."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from skimage import data as photographs

from zoo.errors import BadInput
from zoo.images.formats.png import plain_pixels
from zoo.images.read import Named, decode


def encoded(array, form="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **options)
    return file.getvalue()


def gradient(height=40, width=60, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def png(width, height, depth=8, colour=0, body=b""):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def by_pillow(data):
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return pixels.reshape(*pixels.shape[:2], -1)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "size", [(40, 60), (1, 1), (200, 400), (900, 1200)]
)  # in one stored block, in many, through Pillow
def test_plain_png_agrees_with_pillow_to_the_bit(channels, size):
    array = gradient(*size, channels=channels)
    data = encoded(array)
    assert (plain_pixels(data) is not None) == (data.count(b"IDAT") == 1)
    np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))
    np.testing.assert_array_equal(decode(data).pixels, array.reshape(*size, -1))


def test_a_larger_plain_png_agrees_with_pillow():
    """Above 4 MB of pixels, Pillow decodes PNG files."""
    for channels in (1, 3):
        data = encoded(np.zeros((1200, 1200, channels), np.uint8).squeeze())
        np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))


def test_real_photographs_agree_with_pillow():
    for photograph in (photographs.chelsea(), photographs.camera(), photographs.logo()):
        data = encoded(photograph)
        np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))


def test_all_source_types_give_the_same_pixels(tmp_path):
    array = gradient()
    data = encoded(array)
    (tmp_path / "a.png").write_bytes(data)
    ways = [data, bytearray(data), Named("x", data), tmp_path / "a.png", str(tmp_path / "a.png"), array,
            Image.fromarray(array)]  # fmt: skip
    for way in ways:
        np.testing.assert_array_equal(decode(way).pixels, array)


def test_palette_bilevel_16_bit_cmyk_and_la():
    grey = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    palette = Image.fromarray(grey).convert("P")
    file = io.BytesIO()
    palette.save(file, "PNG")
    np.testing.assert_array_equal(decode(file.getvalue()).pixels[:, :, 0], grey)

    deep = encoded((np.arange(1024, dtype=np.uint16) * 64).reshape(32, 32))
    picture = decode(deep)
    assert picture.corrections == ("reduced to 8 bits",)
    np.testing.assert_allclose(picture.pixels.ravel(), np.arange(1024) * 64 / 257, atol=0.51)  # up to 65,472 of 65,535

    cmyk = Image.new("CMYK", (5, 4), (0, 255, 255, 0))
    picture = decode(cmyk)
    assert picture.corrections == ("converted from CMYK",)
    assert picture.pixels[0, 0].tolist() == [255, 0, 0]

    assert decode(Image.new("1", (3, 2), 1)).pixels.tolist() == [[[255]] * 3] * 2
    assert decode(Image.new("LA", (3, 2), (7, 9))).pixels[0, 0].tolist() == [7, 7, 7, 9]


def test_transparent_palette_keeps_its_alpha():
    paletted = Image.new("P", (2, 1))
    paletted.putpalette([10, 20, 30, 40, 50, 60])
    paletted.putpixel((1, 0), 1)
    file = io.BytesIO()
    paletted.save(file, "PNG", transparency=0)
    assert decode(file.getvalue()).pixels.tolist() == [[[10, 20, 30, 0], [40, 50, 60, 255]]]


def test_exif_orientation_is_applied():
    array = gradient(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 0  # means nothing
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", exif=exif)
    assert decode(file.getvalue()).corrections == ()
    exif[0x0112] = 6  # the camera was turned: rows of the file are columns of the scene
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", exif=exif)
    picture = decode(file.getvalue())
    np.testing.assert_array_equal(picture.pixels, np.rot90(array, -1))
    assert picture.corrections == ("rotated upright (EXIF orientation)",)


def test_orientation_in_png_text_chunk_is_applied():
    packet = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet)
    array = gradient(20, 30)
    data = encoded(array, pnginfo=text)
    np.testing.assert_array_equal(decode(data).pixels, decode(Image.open(io.BytesIO(data))).pixels)


def test_truncated_pillow_image_is_bad_input():
    with pytest.raises(BadInput, match="cut short"):
        decode(Image.open(io.BytesIO(encoded(gradient(), "JPEG")[:-200])))


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_animation_gives_first_frame_and_correction(form):
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    file = io.BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:], lossless=True)
    for source in (file.getvalue(), Image.open(io.BytesIO(file.getvalue()))):
        picture = decode(source)
        assert picture.pixels[0, 0, 0] == 10
        assert picture.corrections == ("used the first frame",)
    image = Image.open(io.BytesIO(file.getvalue()))
    image.seek(1)
    picture = decode(image)
    assert picture.pixels[0, 0, 0] == 200
    assert picture.corrections == ("used frame 2",)
    assert image.tell() == 1


def tiff_pages(second=None, **options):
    """A TIFF of two directories; `options` are those of the second."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.full((8, 8), 10, np.uint8))
        writer.write(np.full((8, 8), 200, np.uint8) if second is None else second, **options)
    return file.getvalue()


def test_first_page_of_tiff_is_used_with_a_correction():
    for source in (tiff_pages(), Image.open(io.BytesIO(tiff_pages()))):
        image = decode(source)
        assert image.pixels[0, 0, 0] == 10
        assert image.corrections == ("used the first frame",)
    assert decode(tiff_pages(subfiletype=1)).corrections == ()  # a smaller copy of the first page
    assert decode(tiff_pages(np.ones((8, 8), bool), subfiletype=4)).corrections == ()  # its mask
    assert decode(encoded(gradient(), "TIFF")).corrections == ()


@pytest.mark.parametrize("place", [8, 2**32 - 1, "end"])
def test_damaged_chain_of_tiff_pages_does_not_matter(place):
    data = bytearray(tiff_pages())
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    struct.pack_into(order + "I", data, first + 2 + 12 * count, {8: first, "end": len(data) - 1}.get(place, place))
    assert decode(bytes(data)).corrections == ()


@pytest.mark.parametrize(
    ("array", "first"),
    [
        (np.array([[True, False]]), 255),
        (np.array([[65535, 0]], np.uint16), 255),
        (np.array([[0.5, 1.0]], np.float32), 128),
    ],
)
def test_arrays_of_other_types_are_scaled(array, first):
    assert decode(array).pixels[0, 0, 0] == first


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "is empty"),
        (b"hello, world", "not a supported image"),
        (encoded(gradient())[:-30], "cut short"),
        (encoded(gradient(), "JPEG")[:300], "cut short"),
        (png(50_000, 50_000), "50000x50000"),
        (png(70_000, 1), "70000x1 pixels, more than the limit of 65,535 per side"),
        (png(4, 4, body=b"\0\1"), "cut short"),
        (np.zeros((3, 3, 2), np.uint8), "(3, 3, 2)"),
        (np.zeros((0, 3), np.uint8), "(0, 3)"),
        (np.full((3, 3), 65_536), "up to 65536"),
        (np.full((3, 3), -1), "negative"),
        (np.array([[0.5, np.nan]]), "The array has NaN among its pixel values"),
        (np.array([[0.5, np.inf]]), "infinite"),
        ([0, 255], "for pixels pass a NumPy array"),
        (255, "for pixels pass a NumPy array"),
        (Named("-", b"x"), "The image is not a supported image"),
        (Named("a.png", b""), "a.png is empty"),
        (np.zeros((3, 3), complex), "complex128"),
        ("a\0b.png", "cannot be read"),
        (np.full((3, 3), 1e6), "up to 1e+06"),
        ("no/such/file.png", "does not exist"),
        (".", "folder"),
        ("", "path of an image is empty"),
        (object(), "'object'"),
    ],
)
def test_bad_input_messages(source, words):
    with pytest.raises(BadInput) as caught:
        decode(source)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


def test_flipped_bit_is_detected_by_both_decoders():
    for array in (gradient(), np.tile(np.arange(200, dtype=np.uint8), (200, 1))):
        for picture in (Image.fromarray(array), Image.fromarray(array).convert("P")):
            file = io.BytesIO()
            picture.save(file, "PNG")
            data = bytearray(file.getvalue())
            data[data.index(b"IDAT") + 40] ^= 4
            with pytest.raises(BadInput, match="checksum"):
                decode(bytes(data))


def test_open_file_and_int64_array():
    array = gradient(channels=1)
    np.testing.assert_array_equal(decode(io.BytesIO(encoded(array))).pixels[:, :, 0], array)
    np.testing.assert_array_equal(decode(array.astype(int)).pixels[:, :, 0], array)


def test_text_mode_and_closed_files_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(gradient()))
    with open(tmp_path / "a.png") as text, pytest.raises(BadInput, match="'rb'"):
        decode(text)
    with pytest.raises(BadInput, match="'rb'"):
        decode(io.StringIO("x"))
    with pytest.raises(BadInput, match="cannot be read"):
        decode(text)


def test_decoder_exceptions_become_bad_input(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("Failed to decode frame 0")

    data = encoded(gradient(), "JPEG")
    monkeypatch.setattr(Image, "frombytes", fail)
    with pytest.raises(BadInput, match=r"damaged or cut short \(Failed to decode frame 0\)"):
        decode(data)


def test_damaged_png_is_refused():
    data = encoded(gradient())
    generator = np.random.default_rng(1)
    for position in generator.integers(8, len(data), 200):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(generator.integers(8))
        try:
            picture = decode(bytes(damaged))
        except BadInput:
            continue
        np.testing.assert_array_equal(picture.pixels, gradient())


def test_huge_images_are_refused_before_decoding():
    import tracemalloc

    tracemalloc.start()
    for width, colour in ((50_000, 2), (40_000, 0)):
        with pytest.raises(BadInput, match="million"):
            decode(png(width, 50_000, colour=colour))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_pipes_and_devices_are_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    for name in (f"{tmp_path}/pipe.png", "/dev/zero"):
        with pytest.raises(BadInput, match="is a pipe or a device, not an image file"):
            decode(name)
    (tmp_path / "large.png").write_bytes(bytes(11))
    monkeypatch.setattr("zoo.images.read.MAX_FILE_BYTES", 10)
    with pytest.raises(BadInput, match="has 11 bytes, more than the limit of 10"):
        decode(tmp_path / "large.png")
