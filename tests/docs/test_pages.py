"""What the documentation says is so: commands run, links lead somewhere, the written parts are current."""

import re
import shlex
import subprocess
import sys

import pytest

from docs.build.pages import MODEL_PAGES, pages, renewed
from tests.support.examples import REPOSITORY
from zoo import registry
from zoo.datasets.catalog import DATASETS

README = (REPOSITORY / "README.md").read_text()


def commands(text):
    """The `zoo` lines of a page's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            line = line.split("&&")[-1].split("#")[0].strip()
            if line.startswith("zoo ") and line != "zoo serve":  # which does not end: tests/serve/server/test_server.py
                yield line


@pytest.mark.parametrize("command", list(commands(README)))
def test_the_readmes_commands_work(command):
    done = subprocess.run(
        [sys.executable, "-m", "serve.cli", *shlex.split(command)[1:]]
        if "*" not in command
        else ["bash", "-c", command.replace("zoo ", f"{sys.executable} -m serve.cli ", 1)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout or " -o " in command


def test_the_readmes_first_answer_is_the_one_that_is_given():
    first = next(commands(README))
    done = subprocess.run(
        [sys.executable, "-m", "serve.cli", *shlex.split(first)[1:]],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() in README


def test_the_readmes_python_works():
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        exec(block, names)
    assert names["row"].label == "7"
    assert names["scores"].logits.shape == (2, 10)


@pytest.mark.parametrize("path", list(pages()), ids=lambda path: path.name)
def test_what_is_written_from_cards_is_current(path):
    assert path.exists(), "run `python -m docs.build`"
    assert path.read_text() == pages()[path], "run `python -m docs.build`"


def test_no_page_is_left_over_from_a_model_that_is_gone():
    assert set(MODEL_PAGES.iterdir()) == {path for path in pages() if path.parent == MODEL_PAGES}


@pytest.mark.parametrize("card", [entry.card for entry in registry.scan()], ids=lambda card: card.name)
def test_model_cards_are_read_by_the_hubs_own_library(card):
    from huggingface_hub import ModelCard

    page = ModelCard((MODEL_PAGES / f"{card.name}.md").read_text())
    assert page.data.license == "apache-2.0"
    (result,) = page.data.eval_results
    assert (result.dataset_type, result.dataset_split) == (DATASETS[card.dataset.name].repository, "test")
    assert result.metric_value == round(card.accuracy.value, 4)
    assert f"{card.macs:,}" in page.text


def test_a_page_without_its_block_is_an_error():
    with pytest.raises(ValueError, match="no block"):
        renewed("# A page", "block")


@pytest.mark.parametrize("page", sorted(REPOSITORY.glob("*.md")) + sorted(REPOSITORY.glob("docs/**/*.md")), ids=str)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page} links to {target}"
