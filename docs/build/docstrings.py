"""An extension of griffe, which reads docstrings for the API reference (see zensical.toml)."""

import re
from typing import Any

import griffe

SECTION = re.compile(r"(?<=[^\n])\n(?=(?:Args|Returns|Yields|Raises):\n)")


class Sections(griffe.Extension):  # type: ignore[misc, unused-ignore]  # Any where griffe is missing
    """Separates sections by an empty line, as griffe expects it and this repository's docstrings leave out."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = SECTION.sub("\n\n", obj.docstring.value)
