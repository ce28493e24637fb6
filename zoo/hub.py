"""`zoo push` and `zoo pull`: a model as a repository of the Hugging Face hub, or of another server with its interface.

All transfers go through huggingface_hub, which knows tokens, caches, retries and its environment (HF_TOKEN, HF_HOME,
HF_ENDPOINT, HF_HUB_OFFLINE). What it brings is treated as a stranger's: only the files in `FILES` are downloaded, after
their sizes were compared with the limits and with the card; the card decides the name; and nothing appears in
$ZOO_HOME/models before it passed the checks of every model (docs/decisions/0018-deployment.md).
"""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import zoo
from zoo import model_card, registry
from zoo.card import Card, File
from zoo.errors import BadModel, DeviceUnavailable, ModelNotFound, WrongUsage, ZooError, not_importable, reason
from zoo.loading import card_of, load, locate, model_file
from zoo.model_files import LARGEST_CARD, LARGEST_MODEL, read_file
from zoo.source import SCHEMA_VERSION, SOURCE_FILE, Source

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD_FILE = "card.json"
FILES = {  # that a repository may give, with their largest sizes in bytes
    CARD_FILE: LARGEST_CARD,
    "model.onnx": LARGEST_MODEL,
    "model.safetensors": LARGEST_MODEL,
}
PAGE = "README.md"  # only written: nothing reads it

REFERENCE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[A-Za-z0-9][\w./+-]{0,199}))?", re.ASCII)


class HubError(ZooError):
    """The hub cannot be reached, refuses the request, or sent something else than was asked for."""


@dataclass(frozen=True)
class Pulled:
    """A model after `pull`, and what was there before."""

    card: Card
    source: Source
    previous: Source | None = None  # of the model that was replaced or is current
    previous_card: Card | None = None

    @property
    def changed(self) -> list[str]:
        """The files that differ from the previous ones, were added, or were removed."""
        old, new = self.previous.digests if self.previous else {}, self.source.digests
        return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


@dataclass(frozen=True)
class Pushed:
    """A model after `push`."""

    card: Card
    repository: str
    commit: str
    url: str  # of the commit, or of the pull request
    files: tuple[File, ...]


class _Old(NamedTuple):
    """A model that a pull replaces; None where its files cannot be read."""

    card: Card | None
    source: Source | None


def pull(reference: str, force: bool = False) -> Pulled:
    """Download a model into $ZOO_HOME/models and pin what was downloaded in its source.json.

    A model that is there already and is current is left alone.

    Args:
        reference: OWNER/NAME, or OWNER/NAME@REVISION with a branch, tag or commit.
        force: replace a model of the same name that did not come from this repository, or was changed since.
    Raises:
        WrongUsage: not a reference.
        ModelNotFound: no such repository or revision, or no model in it.
        BadModel: what is in the repository is not a pocketzoo model, or may not replace the one of that name.
        HubError: the hub cannot be reached, or refuses.
        OSError: the folder cannot be written.
    """
    repository, revision = _parsed(reference)
    snapshot = _Snapshot(_api("pull"), repository, revision)
    card = _read_card(snapshot)
    target = registry.home() / "models" / card.name
    old = _replaceable(target, snapshot, force)
    if old and old.source and old.source.commit == snapshot.commit and not _changed_files(target, old.source):
        return Pulled(card, old.source, old.source, old.card)
    contents = {CARD_FILE: snapshot.read(CARD_FILE)}
    for file in card.files:
        content = snapshot.read(file.name, file.size_bytes)
        if content is None and file.name == "model.onnx":
            raise ModelNotFound(f"{snapshot} has no model.onnx: it is not the repository of a pocketzoo model.")
        contents[file.name] = content
    source = _install({name: content for name, content in contents.items() if content}, card, snapshot, target)
    return Pulled(card, source, old and old.source, old and old.card)


def push(
    name: str,
    repository: str,
    private: bool = False,
    message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> Pushed:
    """Upload a model's ONNX file, its weights if they are there, its card, and a model card as README.md.

    Makes the repository, and the branch, if they do not exist. Other files of the repository are left alone.

    Args:
        name: as in `zoo.load`, but not an ONNX file on its own.
        private: visibility of a new repository.
        message: of the commit.
        revision: branch to commit to; None for the default branch.
        create_pr: open a pull request instead.
    Raises:
        WrongUsage, ModelNotFound, BadModel, HubError.
    """
    repository, extra_revision = _parsed(repository)
    if extra_revision:
        raise WrongUsage(f"The branch to push to is an option: zoo push {name} {repository} --revision BRANCH.")
    card, contents = _checked_contents(name)
    contents[PAGE] = page(card, repository).encode()
    api = _api("push")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _hub_errors(api.endpoint, repository, revision):
        api.create_repo(repository, private=private or None, exist_ok=True)
        if revision and not create_pr:
            api.create_branch(repository, branch=revision, exist_ok=True)
        stale = [
            file for file in FILES if file not in contents and api.file_exists(repository, file, revision=revision)
        ]  # weights of an older model, which would not match this card
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(path, content) for path, content in contents.items()]
            + [CommitOperationDelete(path) for path in stale],
            commit_message=message or f"Upload {card.name} {card.version}",
            revision=revision,
            create_pr=create_pr,
        )
    return Pushed(card, repository, commit.oid, commit.pr_url or commit.commit_url, _described(contents))


class _Snapshot:
    """A repository of the hub at one commit.

    Attributes:
        commit: what the revision means on the hub, or offline, what it meant last.
    """

    def __init__(self, api: "HfApi", repository: str, revision: str | None) -> None:
        """Raises ModelNotFound, HubError."""
        from huggingface_hub.errors import OfflineModeIsEnabled

        self._api, self.repository, self.revision = api, repository, revision
        self.endpoint = api.endpoint
        self._sizes: dict[str, int] | None = None  # None: offline
        try:
            with _hub_errors(self.endpoint, repository, revision, OfflineModeIsEnabled):
                self.commit = str(api.repo_info(repository, revision=revision).sha)
                found = api.get_paths_info(repository, list(FILES), revision=self.commit)
                self._sizes = {file.path: file.size for file in found if hasattr(file, "size")}
        except OfflineModeIsEnabled:
            self.commit = revision or "main"
            self.commit = self._cached(CARD_FILE).parent.name

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit[:12]}"

    def read(self, name: str, size: int | None = None) -> bytes | None:
        """The content of one of `FILES`, or None if the repository does not have it.

        Args:
            size: that it must have, in bytes.
        Raises:
            BadModel: it is too large, or has another size. Nothing was downloaded then.
        """
        if self._sizes is None:
            path = self._cached(name)
        elif name not in self._sizes:
            return None
        else:
            available = self._sizes[name]
            if available > FILES[name]:
                raise BadModel(f"{name} of {self} has {available:,} bytes, more than the limit of {FILES[name]:,}.")
            if size is not None and available != size:
                raise BadModel(f"{name} of {self} has {available:,} bytes, but its card says {size:,}: push it again.")
            # The card by the revision's name, so that the cache knows its commit when offline; the rest by commit.
            revision = self.revision if name == CARD_FILE else self.commit
            with _hub_errors(self.endpoint, self.repository, self.revision):
                path = Path(self._api.hf_hub_download(self.repository, name, revision=revision))
            if path.parent.name != self.commit:
                raise HubError(f"{self} was changed while it was pulled: try again.")
        return read_file(path, FILES[name])

    def _cached(self, name: str) -> Path:
        with _hub_errors(self.endpoint, self.repository, self.revision):
            return Path(self._api.hf_hub_download(self.repository, name, revision=self.commit, local_files_only=True))


def _parsed(reference: str) -> tuple[str, str | None]:
    match = REFERENCE.fullmatch(reference)
    if not match:
        raise WrongUsage(f"{reference!r} is not a repository: write OWNER/NAME, or OWNER/NAME@REVISION to pull.")
    return match["repository"], match["revision"]


def _api(command: str) -> "HfApi":
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ZooError(not_importable(f"`zoo {command}`", error, "hub")) from None
    return HfApi(library_name="pocketzoo", library_version=zoo.__version__)


def _read_card(snapshot: _Snapshot) -> Card:
    """The card, if it lists nothing but the files of a model. Raises ModelNotFound, BadModel."""
    content = snapshot.read(CARD_FILE)
    if content is None:
        raise ModelNotFound(f"{snapshot} has no {CARD_FILE}: it is not the repository of a pocketzoo model.")
    try:
        card = Card.from_json(content.decode(), f"{snapshot}/{CARD_FILE}")
    except UnicodeDecodeError:
        raise BadModel(f"{CARD_FILE} of {snapshot} is not UTF-8 text: push the model again.") from None
    _check_file_names(card, str(snapshot))
    return card


def _check_file_names(card: Card, where: str) -> None:
    card.file("model.onnx")  # raises BadModel for a card that does not list it
    for file in card.files:
        if file.name not in FILES or file.name == CARD_FILE:
            raise BadModel(f"The card of {where} lists {file.name}, which is no file of a pocketzoo model.")


def _checked_contents(name: str) -> tuple[Card, dict[str, bytes]]:
    """The files to upload, after comparing them with the card. Raises WrongUsage, ModelNotFound, BadModel."""
    entry = locate(name)
    if isinstance(entry, Path):
        raise WrongUsage(f"{name} is an ONNX file on its own: push a model of `zoo list`, or a model's folder.")
    _check_file_names(entry.card, name)
    contents = {CARD_FILE: read_file(entry.folder / CARD_FILE, LARGEST_CARD), "model.onnx": model_file(name).content}
    for file in entry.card.files:
        if file.name in contents:
            continue
        try:
            contents[file.name] = entry.read(file.name)
        except ModelNotFound:  # weights are not installed with the wheel
            continue
        if _sha256(contents[file.name]) != file.sha256:
            raise BadModel(f"{file.name} of {name} differs from its card: get the model again, or export it again.")
    return entry.card, contents


def page(card: Card, repository: str) -> str:
    """The README.md of a model's repository."""
    shape = ", ".join(map(str, card.input.shape))
    shipped = os.path.lexists(registry.SHIPPED_FOLDER / card.name)
    pull_line = "" if shipped else f"zoo pull {repository}\n"
    usage = f"""With pocketzoo, which reads and corrects any image:

```sh
{pull_line}zoo predict image.png --model {card.name}
```

With onnxruntime alone, for arrays that are in the form of the model's input already:

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
logits, probabilities = session.run(["logits", "probabilities"], {{"image": images}})  # images: uint8 (N, {shape})
```"""
    return model_card.text(card, usage, "Written from card.json by `zoo push`.")


def _replaceable(target: Path, snapshot: _Snapshot, force: bool) -> "_Old | None":
    """The model that is in the way, if it may be replaced; None if there is nothing. Raises BadModel."""
    name = target.name
    if os.path.lexists(registry.SHIPPED_FOLDER / name):
        raise BadModel(f"{snapshot} holds {name}, which is a model of pocketzoo itself and cannot be replaced.")
    if not os.path.lexists(target):
        return None
    try:
        entry = registry.open_folder(target)
        old = _Old(entry.card, entry.source())
        changed = _changed_files(target, old.source) if old.source else []
    except (BadModel, ModelNotFound) as error:
        old, problem = _Old(None, None), f"is damaged ({reason(error)})"
    else:
        if old.source is None:
            problem = "did not come from a hub"
        elif (old.source.endpoint, old.source.repository) != (snapshot.endpoint, snapshot.repository):
            problem = f"came from {old.source.endpoint}/{old.source.repository}"
        elif changed:
            problem = f"was changed since it was pulled ({', '.join(changed)})"
        else:
            return old
    if not force:
        raise BadModel(
            f"{snapshot} holds {name}, but {target} {problem}. Replace that model with --force, or keep it by "
            "renaming it and its card."
        )
    return old


def _changed_files(folder: Path, source: Source) -> list[str]:
    """The files that are not what `pull` wrote."""
    changed = []
    for name, digest in source.digests.items():
        try:
            if _sha256(read_file(folder / name, LARGEST_MODEL, folder)) != digest:
                changed.append(name)
        except (BadModel, ModelNotFound):
            changed.append(name)
    return changed


def _install(contents: dict[str, bytes], card: Card, snapshot: _Snapshot, target: Path) -> Source:
    """Write a model's folder, check it, and put it in its place: whole, or not at all. Raises BadModel, OSError."""
    source = Source(
        SCHEMA_VERSION, snapshot.endpoint, snapshot.repository, snapshot.revision, snapshot.commit, _described(contents)
    )
    for file in card.files:
        if source.digests.get(file.name, file.sha256) != file.sha256:
            raise BadModel(f"{file.name} of {snapshot} differs from its card (the sha256): nothing was installed.")
    unique = secrets.token_hex(4)
    partial = target.with_name(f".{target.name}.partial-{unique}")
    retired = target.with_name(f".{target.name}.old-{unique}")
    try:
        partial.mkdir(parents=True)
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        (partial / SOURCE_FILE).write_text(source.to_json(), encoding="utf-8")
        _check_model(partial, snapshot)
        if os.path.lexists(target):
            target.rename(retired)
        try:
            partial.rename(target)
        except OSError:
            if os.path.lexists(retired):
                retired.rename(target)
            raise
    finally:
        for leftover in (partial, retired):
            if leftover.is_symlink() or leftover.is_file():
                leftover.unlink()
            else:
                shutil.rmtree(leftover, ignore_errors=True)
    return source


def _check_model(folder: Path, snapshot: _Snapshot) -> None:
    """All checks that a model gets when it is opened; without onnxruntime, all but those of the network. BadModel."""
    try:
        file, inside = model_file(folder), card_of(folder / "model.onnx")
        if file.card is None or inside.embedded() != file.card.embedded():
            raise BadModel("the card inside model.onnx differs from card.json.")
        with suppress(DeviceUnavailable):
            load(folder, "cpu")
    except BadModel as error:
        detail = str(error).replace(f"{folder}{os.sep}", "").replace(str(folder), "the model")
        raise BadModel(f"{snapshot} is refused, nothing was installed: {detail}") from None


def _described(contents: dict[str, bytes]) -> tuple[File, ...]:
    return tuple(File(name, len(content), _sha256(content)) for name, content in sorted(contents.items()))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _hub_errors(endpoint: str, repository: str, revision: str | None, *expected: type[Exception]) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into an error of ours, except those `expected`."""
    try:
        yield
    except expected:
        raise
    except ZooError:
        raise
    except Exception as error:  # the client, its HTTP library and its transfer library have no common base
        raise _translated(error, endpoint, repository, revision) from error


def _translated(error: Exception, endpoint: str, repository: str, revision: str | None) -> ZooError:
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # of an upload that failed
    login = "log in with `hf auth login`, or set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    detail = reason(ValueError(getattr(error, "server_message", None) or str(error)))
    if isinstance(error, errors.HFValidationError):
        return WrongUsage(f"{repository!r} is not a repository name ({detail}): write OWNER/NAME.")
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{repository} is gated: accept its terms at {endpoint}/{repository}, and {login}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFound(
            f"{endpoint} has no repository {repository}, or it is private: check the name, or {login}."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound(f"{repository} has no revision {revision!r}: check the branch, tag or commit.")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError("The hub is not asked, because HF_HUB_OFFLINE is set: unset it.")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return HubError(f"{endpoint} was not reached, and {repository} is not in the cache of huggingface_hub.")
    if status == 401:
        return HubError(f"{endpoint} does not accept the token ({detail}): {login}.")
    if status == 403:
        return HubError(f"{endpoint} does not permit this for {repository} ({detail}): use a token that may do it.")
    if status is not None:
        return HubError(f"{endpoint} answered {status} for {repository} ({detail}): try again later.")
    return HubError(
        f"The request to {endpoint} for {repository} failed ({detail}): check the connection, and try again."
    )
