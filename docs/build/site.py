"""Builds the documentation site from the repository's Markdown: `python -m docs.build.site`.

The pages are the files that are read on a code host too: `docs/**/*.md` and those of the top folder in `ROOT_PAGES`.
They are copied to `build/site-pages/`, where links to files outside the site become plain text, and Zensical builds
them strictly: a broken link or anchor is an error. `NAVIGATION` places every page; a pattern may match no page.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import click

REPOSITORY = Path(__file__).parents[2]
PAGES = REPOSITORY / "build" / "site-pages"
SITE = REPOSITORY / "build" / "site"
CONFIG = REPOSITORY / "build" / "zensical.toml"
NO_NAVIGATION = "nav = []  # replaced"

ROOT_PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
NAVIGATION = {  # section → patterns of pages, in order; a page belongs to the first pattern that matches it
    "Get started": ["index.md", "quickstart.md", "choose-a-model.md", "faq.md"],
    "Guides": [
        "guides/predict.md", "guides/train-your-own.md", "guides/own-models.md", "guides/serving.md",
        "guides/browser.md", "guides/inspect.md", "guides/scaling.md", "guides/gpu.md", "guides/containers.md",
        "guides/hub.md", "guides/grpc.md", "guides/triton.md", "guides/model-control.md", "guides/cli.md",
        "guides/*.md",
    ],
    "Reference": ["reference/*.md", "usage.md", "architecture.md", "security.md"],
    "Models": ["models/*.md"],
    "Results": ["accuracy.md", "benchmarks.md", "robustness.md", "ablations.md", "experiments.md", "training-speed.md"],
    "Decisions": ["decisions/README.md", "decisions/*.md"],
    "Project": ["contributing.md", "changelog.md", "*.md"],
}  # fmt: skip
LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<target>[^()\s]+)\)")
FENCE = re.compile(r"^ *(```|~~~)")


def pages() -> dict[Path, PurePosixPath]:
    """Every page: its file in the repository → its path in the site."""
    files = {
        path: PurePosixPath(path.relative_to(REPOSITORY / "docs").as_posix())
        for path in sorted((REPOSITORY / "docs").rglob("*.md"))
    }
    return files | {REPOSITORY / name: PurePosixPath(path) for name, path in ROOT_PAGES.items()}


def relink(text: str, source: Path, site: dict[Path, PurePosixPath]) -> str:
    """The page's text with its relative links as the site needs them.

    A link to a page leads to that page, one to the README to the home page. A link to another file of the repository
    becomes its text, because the site does not hold that file. Code blocks and web addresses stay as they are.

    Raises:
        ValueError: a link leads to no file.
    """

    def replace(match: re.Match[str]) -> str:
        name, _, anchor = match["target"].partition("#")
        if not name or re.match(r"[a-z]+:", name):
            return match[0]
        file = (source.parent / name).resolve()
        if not file.exists():
            raise ValueError(f"{source.relative_to(REPOSITORY)}: the link {match['target']!r} leads to no file.")
        if file == REPOSITORY / "README.md":
            page: PurePosixPath | None = PurePosixPath("index.md")
            anchor = ""  # the home page has other headings
        elif file in site:
            page = site[file]
        elif file.is_relative_to(REPOSITORY / "docs") and match["text"].startswith("!"):
            page = PurePosixPath(file.relative_to(REPOSITORY / "docs").as_posix())
        else:
            return match["text"].lstrip("!")[1:-1]
        up = "../" * (len(site[source].parts) - 1)
        return f"{match['text']}({up}{page}{'#' + anchor if anchor else ''})"

    lines, fence = [], ""
    for line in text.split("\n"):
        marker = FENCE.match(line)
        if marker and not fence:
            fence = marker[1]
        elif marker and line.strip() == fence:
            fence = ""
        lines.append(line if fence or marker else LINK.sub(replace, line))
    return "\n".join(lines)


def navigation(paths: list[PurePosixPath]) -> Iterator[tuple[str, list[PurePosixPath]]]:
    """The sections that have pages, with these pages in order."""
    left = sorted(paths)
    for section, patterns in NAVIGATION.items():
        chosen: list[PurePosixPath] = []
        for pattern in patterns:
            chosen += [path for path in left if path not in chosen and _matches(path, pattern)]
        left = [path for path in left if path not in chosen]
        if chosen:
            yield section, chosen


def _matches(path: PurePosixPath, pattern: str) -> bool:
    return len(path.parts) == len(PurePosixPath(pattern).parts) and path.match(pattern)


def title(text: str) -> str:
    """The page's first heading, without marks. Raises ValueError for a page without one."""
    match = re.search(r"^# (.+)$", text, re.MULTILINE)
    if match is None:
        raise ValueError(f"A page has no heading of the first level: {text[:60]!r}.")
    return re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", match[1])


def _item(name: str, value: str) -> str:
    """An inline table of TOML, whose strings are written as in JSON."""
    return f"{{ {json.dumps(name)} = {value} }}"


def prepare(folder: Path = PAGES) -> None:
    """Write the site's pages and pictures into a folder, and `CONFIG`. Raises ValueError for a broken link."""
    if folder.exists():
        shutil.rmtree(folder)
    site, titles = pages(), {}
    for source, path in site.items():
        text = source.read_text(encoding="utf-8")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(relink(text, source, site), encoding="utf-8")
        number = re.match(r"\d{4} ?", path.name.replace("-", " "))  # of a decision
        titles[path] = f"{number[0] if number else ''}{title(text).partition(': ')[0]}"
    for source in sorted((REPOSITORY / "docs").rglob("*")):
        if source.suffix in (".png", ".svg", ".css"):
            target = folder / source.relative_to(REPOSITORY / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    sections = [
        _item(section, "[" + ", ".join(_item(titles[path], json.dumps(str(path))) for path in paths) + "]")
        for section, paths in navigation(list(site.values()))
    ]
    config = (REPOSITORY / "zensical.toml").read_text(encoding="utf-8")
    CONFIG.write_text(config.replace(NO_NAVIGATION, f"nav = [{', '.join(sections)}]"), encoding="utf-8")


@click.command()
@click.option("--serve", is_flag=True, help="Show the site at http://localhost:8000 until Ctrl-C.")
def main(serve: bool) -> None:
    """Build the documentation site in build/site/. Needs the extra `docs`."""
    try:
        prepare()
    except ValueError as error:
        sys.exit(f"docs.build.site: {error}")
    if find_spec("zensical") is None:
        sys.exit("docs.build.site: The package zensical is missing. Run: pip install -e '.[docs]'")
    arguments = ["serve"] if serve else ["build", "--clean", "--strict"]
    sys.exit(
        subprocess.run([sys.executable, "-m", "zensical", *arguments, "-f", str(CONFIG)], cwd=REPOSITORY).returncode
    )


if __name__ == "__main__":
    main()
