"""Fixtures of the command's tests."""

from tests.support.command import run  # noqa: F401
