"""Plots of a run: their counts, order, curves and labels."""

import pytest
import torch

from tests.support.examples import stripes
from train import evaluate, report

pytestmark = pytest.mark.slow  # needs torch

LABELS = tuple("0123456789")


@pytest.fixture
def scored():
    """Scores for 400 synthetic images: 360 correct, and 40 of label 3 predicted as 5 with rising confidence."""
    data = stripes(400, 5)
    data.labels[:40] = 3
    scores = 8 * torch.nn.functional.one_hot(data.labels, 10).float()
    scores[:40, 5] = scores[:40, 3] + torch.linspace(0.1, 4, 40)
    return scores, data


def test_confusion_counts_by_label_and_prediction(scored):
    scores, data = scored
    counts = evaluate.confusion_counts(scores, data.labels)
    assert counts[3, 5] == 40
    assert counts.sum() == 400
    assert counts.diag().sum() == 360


def test_mistakes_are_ordered_by_confidence(scored):
    scores, data = scored
    figure = report.mistakes(scores, data, LABELS, "title")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    shares = [int(title.split()[-1].rstrip("%")) for title in titles]
    assert len(titles) == 40
    assert shares == sorted(shares, reverse=True)
    assert titles[0].startswith("3 → 5")


def test_confusion_plot_shows_counts(scored, tmp_path):
    scores, data = scored
    figure = report.confusion(scores, data, LABELS, "x")
    assert figure.axes[0].get_title() == "x: 40 of 400 wrong"
    assert "40" in [text.get_text() for text in figure.axes[0].texts]
    figure.savefig(tmp_path / "confusion.png")


def test_reliability_plot_compares_two_temperatures(scored, tmp_path):
    scores, data = scored
    figure = report.reliability(scores, data.labels, 1.5, "x")
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == ["T = 1", "T = 1.5"]
    assert all(len(axes.collections[0].get_offsets()) > 1 for axes in figure.axes)
    figure.savefig(tmp_path / "reliability.png")


def test_mistakes_plot_without_mistakes_is_empty(scored, tmp_path):
    _, data = scored
    figure = report.mistakes(8 * torch.nn.functional.one_hot(data.labels, 10).float(), data, LABELS, "x")
    assert not any(axes.images for axes in figure.axes)
    figure.savefig(tmp_path / "mistakes.png")
