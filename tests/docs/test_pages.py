"""The documentation: its commands work, its links lead to files, its generated parts are current."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs.build.__main__ import MODEL_PAGES, PAGE_DATA, outdated, renew
from tests.support.examples import REPOSITORY
from zoo import registry
from zoo.datasets.catalog import DATASETS

README = (REPOSITORY / "README.md").read_text()


def commands(text):
    """The `zoo` commands in a page's shell blocks. Blocks of the kind `console` need files of the user's own."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            line = line.split("&&")[-1].split("#")[0].strip()
            if line.startswith("zoo ") and line != "zoo serve":  # runs until stopped: tests/serve/server/test_server.py
                yield line


@pytest.mark.slow
@pytest.mark.parametrize("command", list(commands(README)))
def test_readme_commands_work(command):
    done = subprocess.run(
        [sys.executable, "-m", "serve.cli", *shlex.split(command)[1:]]
        if "*" not in command
        else ["bash", "-c", command.replace("zoo ", f"{sys.executable} -m serve.cli ", 1)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout or " -o " in command


@pytest.mark.slow
def test_readme_commands_for_own_images_work(tmp_path):
    """Those that need nothing but images: fit (one epoch here), predict, evaluate and bench."""
    random = np.random.default_rng(0)
    for folder in ("mugs", "other-mugs"):
        for label, channel in (("red", 0), ("blue", 2)):
            (tmp_path / folder / label).mkdir(parents=True)
            for number in range(12):
                pixels = random.integers(0, 90, (40, 40, 3), np.uint8)
                pixels[:, :, channel] += 120
                Image.fromarray(pixels).save(tmp_path / folder / label / f"{number}.png")
    shutil.copy(tmp_path / "mugs" / "red" / "1.png", tmp_path / "mug.png")
    lines = re.findall(r"^\$ (zoo (?:fit|predict mug|evaluate|bench) ?[^#\n]*)", README, re.MULTILINE)
    assert len(lines) == 4
    shorter = {"fit": ["--epochs", "1"], "bench": ["--seconds", "1"]}
    for line in lines:
        words = shlex.split(line)[1:]
        done = subprocess.run(
            [sys.executable, "-m", "serve.cli", *words, *shorter.get(words[0], [])],
            cwd=tmp_path, env=os.environ | {"ZOO_HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout or words[0] == "fit"


def test_readme_shows_the_output_of_its_first_command():
    first = next(commands(README))
    done = subprocess.run(
        [sys.executable, "-m", "serve.cli", *shlex.split(first)[1:]],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() in README


def test_readme_python_example_works():
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    namespace = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        exec(block, namespace)
    assert namespace["row"].label == "7"
    assert namespace["scores"].logits.shape == (2, 10)


@pytest.mark.slow
def test_generated_pages_are_current():
    assert outdated() == [], "run `python -m docs.build`, and delete pages of removed models"


@pytest.mark.slow
def test_check_reports_changed_missing_and_removed_pages(tmp_path):
    root = tmp_path / "root"
    shutil.copytree(REPOSITORY / "docs", root / "docs", ignore=shutil.ignore_patterns("*.json", "*.png", "*.py"))
    shutil.copy(REPOSITORY / "README.md", root)
    (root / "serve" / "demo").mkdir(parents=True)
    shutil.copy(PAGE_DATA, root / "serve" / "demo")
    assert outdated(root) == []
    readme, removed, missing = (
        root / name for name in ("README.md", "docs/models/x.md", "docs/models/mnist4k.plus.md")
    )
    readme.write_text(README.replace("| MNIST | 14,624 |", "| MNIST | 14,625 |"))
    removed.write_text("# A model that is not shipped")
    missing.unlink()
    assert set(outdated(root)) == {readme, removed, missing}


def test_renew_writes_the_output_of_blocks():
    page = "Text\n<!-- [[[cog cog.out('new') ]]] -->\nold\n<!-- [[[end]]] -->\nmore\n"
    assert renew(page, Path("page.md")) == page.replace("old", "new")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("<!-- [[[cog cog.out('x') ]]] -->\nnever closed\n", "page.md.*end"),
        (
            "<!-- [[[cog from docs.build import blocks; cog.out(blocks.benchmark('x')) ]]] -->\n<!-- [[[end]]] -->\n",
            "'x'.*latency",
        ),
    ],
)
def test_block_that_fails_is_an_error(block, message):
    with pytest.raises(ValueError, match=message):
        renew(block, Path("page.md"))


@pytest.mark.parametrize("card", [entry.card for entry in registry.scan() if entry.shipped], ids=lambda card: card.name)
def test_model_pages_are_valid_hub_model_cards(card):
    from huggingface_hub import ModelCard

    page = ModelCard((MODEL_PAGES / f"{card.name}.md").read_text())
    assert page.data.license == "apache-2.0"
    (result,) = page.data.eval_results
    assert (result.dataset_type, result.dataset_split) == (DATASETS[card.dataset.name].repository, "test")
    assert result.metric_value == round(card.accuracy.value, 4)
    assert f"{card.macs:,}" in page.text


@pytest.mark.parametrize("page", sorted(REPOSITORY.glob("*.md")) + sorted(REPOSITORY.glob("docs/**/*.md")), ids=str)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page} links to {target}"
