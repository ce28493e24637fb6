"""Forms of files (multipart/form-data) as clients send them, read by Starlette's parser with three gaps closed."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

# The codecs by which a client may have names and fields decoded, as `codecs.lookup` calls them. Others take time that
# grows with the square of the length (punycode, idna), or give text that no answer can hold.
CODECS = frozenset({"utf-8", "iso8859-1", "ascii"})
EXTENDED = re.compile(rb""";\s*filename\*\s*=\s*(?P<charset>[\w-]*)'[\w-]*'(?P<name>[^\s;"]*)""", re.IGNORECASE)


class FormParser(MultiPartParser):
    """Reads a form; `parse_whole` refuses one that ends early. Raises MultiPartException, KeyError (no boundary).

    - A character set that is not in `CODECS` counts as UTF-8.
    - A file's name may come in the extended form alone, `filename*=UTF-8''a%20b.png` (RFC 8187, section 3.2).
    - A form that ends before its last boundary, in the middle of a file, is noticed (RFC 2046, section 5.1.1).
    """

    ended = False
    _codec = "utf-8"

    @property
    def _charset(self) -> str:  # what Starlette sets from the Content-Type header
        return self._codec

    @_charset.setter
    def _charset(self, name: str) -> None:
        self._codec = name if name in CODECS else "utf-8"

    async def parse_whole(self) -> FormData:
        form = await self.parse()
        if not self.ended:
            self.close_files()
            raise MultiPartException("it ends before its last boundary")
        return form

    def on_end(self) -> None:
        self.ended = True

    def close_files(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()

    def on_headers_finished(self) -> None:
        disposition = self._current_part.content_disposition or b""
        found = EXTENDED.search(disposition)
        if found and b"filename" not in parse_options_header(disposition)[1]:
            charset = "latin-1" if found["charset"].lower() == b"iso-8859-1" else "utf-8"
            name = unquote_to_bytes(found["name"]).decode(charset, "replace").encode()
            self._current_part.content_disposition = disposition + b'; filename="' + name.replace(b'"', b"'") + b'"'
        super().on_headers_finished()
