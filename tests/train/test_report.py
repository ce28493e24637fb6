"""The report's numbers, and that its pictures are drawn."""

import pytest
import torch

from tests.support.examples import stripes
from train import report

LABELS = tuple("0123456789")


@pytest.fixture
def scored():
    """Scores for 400 made-up images: 360 right, and 40 of label 3 answered 5 with growing confidence."""
    data = stripes(400, 5)
    data.labels[:40] = 3
    scores = 8 * torch.nn.functional.one_hot(data.labels, 10).float()
    scores[:40, 5] = scores[:40, 3] + torch.linspace(0.1, 4, 40)
    return scores, data


def test_confusion_counts(scored):
    scores, data = scored
    counts = report.confusion_counts(scores, data.labels)
    assert counts[3, 5] == 40
    assert counts.sum() == 400
    assert counts.diag().sum() == 360


def test_the_surest_mistakes_come_first(scored):
    scores, data = scored
    figure = report.mistakes(scores, data, LABELS, "title")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    shares = [int(title.split()[-1].rstrip("%")) for title in titles]
    assert len(titles) == 40
    assert shares == sorted(shares, reverse=True)
    assert titles[0].startswith("3 → 5")


def test_pictures_are_drawn(scored, tmp_path):
    scores, data = scored
    for name, figure in (
        ("confusion", report.confusion(scores, data, LABELS, "x")),
        ("reliability", report.reliability(scores, data.labels, 1.5, "x")),
        ("flawless", report.mistakes(8 * torch.nn.functional.one_hot(data.labels, 10).float(), data, LABELS, "x")),
    ):
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
