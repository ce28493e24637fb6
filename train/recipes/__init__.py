"""One file per recipe: the docstring gives the exact command and the result; `RECIPE` is the data."""
