"""Accuracy, loss, intervals and calibration against their definitions."""

import math

import pytest
import torch

from train import evaluate
from zoo.evaluation import wilson

pytestmark = pytest.mark.slow  # needs torch


def test_wilson_interval_matches_published_values():
    low, high = wilson(0.5, 10)
    assert (round(low, 4), round(high, 4)) == (0.2366, 0.7634)
    low, high = wilson(0.9949, 10_000)
    assert (high - low) / 2 == pytest.approx(0.0014, abs=5e-5)
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)


def test_accuracy_and_loss_match_definitions():
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    assert evaluate.accuracy(scores, labels) == pytest.approx(2 / 3)
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(3))) / 3
    assert evaluate.loss(scores, labels) == pytest.approx(expected)


def overconfident(n=20_000, true_temperature=2.5):
    """Return scores, and labels drawn from softmax(scores / T) with a known T."""
    generator = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(n, 10, generator=generator)
    labels = torch.multinomial((scores / true_temperature).softmax(1), 1, generator=generator)[:, 0]
    return scores, labels


def test_fit_temperature_recovers_the_true_temperature():
    scores, labels = overconfident()
    temperature = evaluate.fit_temperature(scores, labels)
    assert temperature == pytest.approx(2.5, rel=0.05)
    assert evaluate.calibration_error(scores, labels) > 0.1
    assert evaluate.calibration_error(scores / temperature, labels) < 0.02


def test_calibration_error_matches_hand_calculation():
    scores = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.7, 0.3], [0.7, 0.3]]))
    labels = torch.tensor([0, 1, 0, 0])  # at 0.9 half are correct, at 0.7 all are
    assert evaluate.calibration_error(scores, labels) == pytest.approx((2 * 0.4 + 2 * 0.3) / 4, abs=1e-6)


def test_unsure_below_is_the_median_mistake():
    scores, labels = overconfident()
    threshold = evaluate.unsure_below(scores, labels, 2.5)
    confidence, chosen = (scores / 2.5).softmax(1).max(1)
    wrong = confidence[chosen != labels]
    assert (wrong < threshold).double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert evaluate.unsure_below(scores, scores.argmax(1), 1.0) == 0.5
