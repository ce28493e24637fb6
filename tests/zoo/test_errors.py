"""Messages about other libraries."""

import pytest

from zoo.errors import not_importable


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ModuleNotFoundError("No module named 'granian'", name="granian"),
            "`zoo serve` needs granian: pip install 'pocketzoo[serve]'.",
        ),
        (ModuleNotFoundError("No module named '_ssl'", name="_ssl"), "`zoo serve` needs _ssl, which this Python was"),
        (ModuleNotFoundError("No module named 'numpy._no'", name="numpy._no"), "(No module named 'numpy._no')"),
        (ModuleNotFoundError("No module named 'names.pace'", name="names.pace"), "needs names.pace: pip install 'pock"),
        (ImportError("libz.so.1: cannot open shared object file", name="granian._granian"), "(libz.so.1: cannot open"),
        (ImportError("cannot import name 'x' from 'granian'", name="granian"), "pip install --force-reinstall"),
        (ImportError("no name"), "is installed but cannot be imported (no name)"),
    ],
)
def test_packages_that_cannot_be_imported(error, message):
    """A package that is missing, a part of Python that is, and a package that is damaged or of another version."""
    assert message in not_importable("`zoo serve`", error, "serve")
