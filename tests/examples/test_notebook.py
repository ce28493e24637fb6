"""The notebook runs from its first cell to its last, offline, and is stored without outputs."""

import json
import time

import pytest

from tests.support.paths import REPOSITORY

NOTEBOOK = REPOSITORY / "examples" / "pocketzoo.ipynb"


def test_outputs_are_stripped():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.slow
def test_notebook_runs(tmp_path, monkeypatch):
    """With a home of its own; the package is installed, so that nothing is downloaded."""
    client_module = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'pocketzoo[dev]'")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for module in ("torch", "sklearn"):
        pytest.importorskip(module)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    started = time.monotonic()
    client_module.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    seconds = time.monotonic() - started
    text = "\n".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert text.strip().startswith("7 ")
    assert float(text.split("accuracy ")[1].split("%")[0]) > 90
    assert float(text.split("shapes: ")[-1].split("%")[0]) > 80
    assert (tmp_path / "home" / "models" / "shapes" / "model.onnx").exists()
    assert (tmp_path / "inside-shapes" / "1-why.png").exists()
    assert seconds < 300
