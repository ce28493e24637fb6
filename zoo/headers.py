"""What kind of image file bytes begin like."""

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "PSD"),
    (b"qoif", "QOI"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"DDS |\0\0\0", "DDS"),
    (b"\x0a\x05\x01\x08", "PCX"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIF"
)


def sniff(start: bytes) -> str | None:
    """The format that a file's first 32 bytes are the beginning of, None where they begin no image."""
    for signature, kind in _SIGNATURES:
        if start.startswith(signature):
            return kind
    if start[:2] == b"BM" and start[6:10] == bytes(4):  # two letters alone also begin many a text
        return "BMP"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12])
    if start[:4] == b"\0\0\x01\0" and start[4:6] != b"\0\0" and start[9:10] == b"\0":
        return "ICO"
    if len(start) > 3 and start[:1] == b"P" and start[1] in b"1234567" and start[2] in b" \t\r\n":
        return "PNM" if start[3] in b"0123456789#W" else None
    return None
