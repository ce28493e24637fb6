"""Writes every generated page, table and plot from saved results: `python -m docs.build`. It measures nothing.

`--check` writes nothing, and exits with 1 if a page is not current. Plots are not compared, because their bytes depend
on matplotlib's version.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click
from cogapp import Cog

from docs.build import benchmarks, experiments, model_cards, plots
from docs.build.blocks import shipped_cards, studies
from train.experiments import run

REPOSITORY = Path(__file__).parents[2]
MODEL_PAGES = REPOSITORY / "docs" / "models"
PAGE_DATA = REPOSITORY / "serve" / "demo" / "benchmarks.json"


def pages(root: Path = REPOSITORY) -> dict[Path, str]:
    """Every page that is generated, or that has generated blocks, with its current text.

    Raises:
        ValueError: a block is not closed or its code fails.
    """
    written = {root / path.relative_to(REPOSITORY): text for path, text in model_pages().items()}
    for path in (*sorted(root.glob("*.md")), *sorted(root.glob("docs/**/*.md"))):
        if path not in written and "[[[cog" in (text := path.read_text(encoding="utf-8")):
            written[path] = renew(text, path)
    return written


def renew(text: str, path: Path) -> str:
    """The page with the output of its cog blocks renewed. Raises ValueError for a block that cog cannot run."""
    try:
        return str(Cog().process_string(text, str(path)))
    except Exception as error:
        raise ValueError(f"{path}: {error}") from error


def model_pages() -> dict[Path, str]:
    """Files that have no text outside their template: the page of every shipped model, and the figures of the demo."""
    data = {PAGE_DATA: benchmarks.page_data(benchmarks.read())}
    return data | {MODEL_PAGES / f"{card.name}.md": model_cards.text(card) for card in shipped_cards()}


def draw_plots() -> Iterator[Path]:
    """Draw every plot; yields its path."""
    run.RESULTS.mkdir(exist_ok=True)
    for each in studies():
        if each.claims:
            yield from experiments.draw(each, run.read(each), run.RESULTS)
    for name, draw in plots.PLOTS.items():
        path = benchmarks.RESULTS / name
        draw(benchmarks.read()).savefig(path, dpi=100)
        yield path


def outdated(root: Path = REPOSITORY) -> list[Path]:
    """Pages that are not current, and model pages without a model."""
    current = pages(root)
    changed = [path for path, text in current.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    removed = [path for path in sorted((root / "docs" / "models").glob("*.md")) if path not in current]
    return changed + removed


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a page is not current.")
def main(check: bool) -> None:
    """Write every generated page, table and plot from saved results."""
    try:
        if check:
            if stale := outdated():
                names = ", ".join(str(path.relative_to(REPOSITORY)) for path in stale)
                sys.exit(f"Not current: {names}. Run `python -m docs.build`, and delete pages of removed models.")
            return
        for path, text in pages().items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            click.echo(path.relative_to(REPOSITORY))
        for path in draw_plots():
            click.echo(path.relative_to(REPOSITORY))
    except ValueError as error:
        sys.exit(f"docs.build: {error}")


if __name__ == "__main__":
    main()
