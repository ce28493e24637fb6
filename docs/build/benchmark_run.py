"""What a saved run holds: the rows of pytest-benchmark's JSON file, and the results of LoadGen beside it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks"
RUN = RESULTS / "run.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """rows: extra_info of every benchmark, with `test`, the name of its function. loadgen: one a model and scenario."""

    rows: list[Row]
    environment: dict[str, Any]
    commit: str
    date: str
    loadgen: list[Row]

    def of(self, **wanted: Any) -> list[Row]:
        """The rows that have these values, in the order in which they were run."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    def models(self, **wanted: Any) -> list[str]:
        """The names of the models of these rows, each once, in order."""
        return list(dict.fromkeys(row["model"] for row in self.of(**wanted)))


def read(run: Path = RUN, loadgen: Path = RESULTS / "loadgen") -> Saved:
    """Read a saved run. Raises OSError or ValueError where it is not there or no JSON file of pytest-benchmark."""
    told = json.loads(run.read_text(encoding="utf-8"))
    rows = [{**one["extra_info"], "test": one["name"].split("[")[0]} for one in told["benchmarks"]]
    commit = told["commit_info"]
    said = f"{commit['id'][:12]}{', with uncommitted changes' if commit['dirty'] else ''}"
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(loadgen.glob("*.json"))]
    return Saved(rows, told["machine_info"], said, told["datetime"][:10], found)
