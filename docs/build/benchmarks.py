"""Renews the figures of README and docs, and their pictures, from the saved run alone: `python -m docs.build`.

A page holds figures in blocks: `<!-- figures: NAME -->`, what `BLOCKS[NAME]` writes, `<!-- end of figures -->`. Nothing
is measured here, and a test finds a block that is not what the saved run says.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from docs.build import gpu_tables
from docs.build import benchmark_tables as tables
from docs.build.benchmark_run import RESULTS, Saved, read

REPOSITORY = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
BLOCKS: dict[str, Callable[[Saved], str]] = {
    "summary": tables.summary,
    "environment": tables.environment,
    "promises": tables.promises,
    "latency": tables.latency,
    "runtimes": tables.runtimes,
    "peers": tables.peers,
    "shares": tables.shares,
    "loadgen": tables.loadgen,
    "training": tables.training,
    "ratios": tables.ratios,
    "serving": tables.serving,
    "gpu": lambda _: gpu_tables.report(),
}


def renewed(page: str, saved: Saved) -> str:
    """The page with every block as the run says. Raises ValueError for a block that nothing writes."""

    def write(found: re.Match[str]) -> str:
        if found[2] not in BLOCKS:
            raise ValueError(f"There are no figures {found[2]!r}: choose from {', '.join(BLOCKS)}.")
        return f"{found[1]}{BLOCKS[found[2]](saved)}\n{found[3]}"

    return BLOCK.sub(write, page)


def pages(root: Path = REPOSITORY) -> Iterator[Path]:
    """The pages that hold blocks of figures."""
    for path in (*sorted(root.glob("*.md")), *sorted(root.glob("docs/**/*.md"))):
        if BLOCK.search(path.read_text(encoding="utf-8")):
            yield path


def main() -> None:
    from docs.build.benchmark_plots import PICTURES

    saved = read()
    for path in pages():
        path.write_text(renewed(path.read_text(encoding="utf-8"), saved), encoding="utf-8")
        print(path.relative_to(REPOSITORY))
    for name, draw in PICTURES.items():
        draw(saved, RESULTS / name)
        print((RESULTS / name).relative_to(REPOSITORY))


