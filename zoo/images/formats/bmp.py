"""BMP without compression, decoded by Pillow. Run-length coding is refused: Pillow decodes it in Python, slowly."""

from __future__ import annotations  # faster start: annotations stay unevaluated

import io
import struct

from zoo.dataclass import dataclass
from zoo.images.formats.common import Array, DecodeError, Header, damaged, pillow_pixels

_COMPRESSED = {1: "run-length coding", 2: "run-length coding", 4: "a JPEG inside", 5: "a PNG inside"}


def size(data: bytes) -> tuple[int, int]:
    if len(data) < 34:
        raise damaged("it ends before the image data")
    if data[14] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    if width < 1 or not height:
        raise damaged(f"it declares {width}x{height} pixels")
    return width, abs(height)


@dataclass(frozen=True)
class _Bmp(Header):
    data: bytes = b""

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        from PIL import BmpImagePlugin

        with BmpImagePlugin.BmpImageFile(io.BytesIO(self.data)) as image:
            if image.size != (self.width, self.height):
                raise damaged("its header has invalid values")
            image.load()
            return pillow_pixels(image)


def parse(data: bytes) -> Header:
    width, height = size(data)
    bits, compression = struct.unpack_from("<HI", data, 28) if data[14] != 12 else (data[24], 0)
    if compression in _COMPRESSED:
        raise DecodeError(f"is a BMP with {_COMPRESSED[compression]}, which is not supported: save it as PNG")
    if bits not in (1, 4, 8, 16, 24, 32):
        raise damaged(f"it declares {bits} bits per pixel")
    if 14 + data[14] + (width * bits + 31) // 32 * 4 * height > len(data):
        raise damaged("it ends in the middle of its pixels")
    pillow_bytes, array_bytes = (1, 3) if bits <= 8 else (4, 4 if bits == 32 else 3)  # per pixel
    return _Bmp(width, height, (pillow_bytes + array_bytes) * width * height, data=data)
