"""Fixtures of the batch tests."""

import pytest

from serve.batch import ray_engine
from serve.batch.ray_engine import BlockWriter
from tests.support.command import run  # noqa: F401


@pytest.fixture
def in_process(monkeypatch):
    """Run blocks in this process, through the class that Ray's actors run."""

    def run_blocks(blocks, job, processes):
        writer = BlockWriter(job)
        for block in blocks:
            result = writer({name: [value] for name, value in block.items()})
            yield {name: values[0] for name, values in result.items()}

    monkeypatch.setattr(ray_engine, "_run_blocks", run_blocks)
    monkeypatch.setattr(ray_engine, "BLOCK_IMAGES", 4)
