"""One file per model: a docstring with the exact command and the result, and RECIPE."""
