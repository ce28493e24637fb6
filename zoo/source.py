"""Source: where `zoo pull` got a model, in source.json beside its card. It pins the commit and every file's sha256."""

import json
import re
from dataclasses import asdict, dataclass
from typing import Annotated

from zoo.card import File, parse
from zoo.errors import BadModel, printable

SOURCE_FILE = "source.json"
LARGEST_SOURCE = 2**16  # bytes
SCHEMA_VERSION = 1

Commit = Annotated[str, re.compile("[0-9a-f]{40}"), "the 40 hexadecimal digits of a commit"]
# Of the hub that it came from; a repository on it; a branch, tag or commit. Names become parts of URLs and messages.
Endpoint = Annotated[str, re.compile(r"https?://[^\s@?#]{1,300}"), "the address of a hub"]
Repository = Annotated[str, re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII), "a repository OWNER/NAME"]
Revision = Annotated[str, re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}"), "a branch, tag or commit"]


@dataclass(frozen=True)
class Source:
    """The origin of a model's files."""

    schema_version: Annotated[int, SCHEMA_VERSION, SCHEMA_VERSION]
    endpoint: Endpoint
    repository: Repository
    revision: Revision | None  # that was asked for; None for the default branch
    commit: Commit  # that it meant
    files: tuple[File, ...]  # as they were written, card.json included

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit[:12]}"

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of each file."""
        return {file.name: file.sha256 for file in self.files}

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Source":
        """Read a source and check every field. Error messages call its file `where`. Raises BadModel."""
        try:
            return parse(cls, text)
        except (ValueError, RecursionError) as error:
            raise BadModel(
                f"{where} is damaged ({printable(str(error)[:300])}): pull the model again with --force, or remove the "
                "file if the model did not come from a hub."
            ) from None
