"""Fixtures of the batch tests."""

from tests.support.command import run  # noqa: F401
