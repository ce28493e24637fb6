"""HTML of "Look inside" and of the Benchmarks tab, without a browser."""

import html as html_module
import json
import re

import numpy as np
import pytest

from docs.build import benchmarks as report
from serve.demo import benchmarks, inside
from tests.support.paths import DEFAULT, REPOSITORY
from zoo.inspection.activations import look_inside


@pytest.fixture(scope="module")
def mnist14k():
    return look_inside(DEFAULT, str(REPOSITORY / "examples" / "seven.png"))


def data_of(page):
    return json.loads(html_module.unescape(re.search(r'data-look="([^"]*)"', page)[1]))


def test_data_of_the_page_holds_maps_and_exact_fields(mnist14k):
    data = data_of(inside.html(mnist14k))
    assert data["input"] == [28, 28]
    assert [layer["maps"] for layer in data["layers"]][:2] == [[16, 26, 26], [32, 24, 24]]
    ((rows, columns),) = data["layers"][1]["reach"]  # two 3x3 convolutions without padding
    assert rows == columns == [[first, first + 5] for first in range(24)]
    assert max(data["layers"][0]["high"]) == pytest.approx(mnist14k.stages[0].values.max(), rel=1e-3)
    assert data["layers"][0]["kernels"]["size"] == [1, 3, 3]
    assert len(inside.html(mnist14k)) < 100_000


def test_each_layer_explains_its_terms_with_its_own_numbers():
    terms = {stage.layer.name: dict(inside.explain(stage)) for stage in look_inside("resnet8", example()).stages}
    assert terms["conv4"]["Stride"].startswith("2: it moves by 2 positions")
    assert "3×3 weights" in terms["conv1"]["Kernel"]
    assert terms["conv1"]["Receptive field"].startswith("What one unit depends on: up to 3×3 pixels")
    assert terms["dense1"]["Receptive field"].endswith("the whole input.")
    assert {"Kernel", "Stride", "Padding", "Feature map", "Receptive field"} <= terms["conv1"].keys()
    assert "Padding" not in terms["conv6"], "a 1×1 kernel needs none"
    assert (
        "one map; each map has its own" in dict(inside.explain(look_inside("cifar90k", example()).stages[1]))["Kernel"]
    )
    pools = dict(inside.explain(look_inside("mnist14k", example()).stages[2]))
    assert "2×2 window keeps the largest value" in pools["Pooling"]


def example():
    return str(REPOSITORY / "examples" / "seven.png")


def test_runs_keep_the_holes_of_dilated_kernels():
    lines = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    assert inside._runs(lines) == [[0, 1, 2, 4], [], [0, 4]]


def test_figures_of_the_page_are_those_of_the_report():
    """`python -m docs.build` writes them."""
    assert benchmarks.FILE.read_text() == report.page_data(report.read())
    assert benchmarks.report_latency(DEFAULT) == next(
        row["p50_ms"] for row in report.read().select(scope="array to label, every model", model=DEFAULT)
    )


def point(model="a.plus", here=0.2, reported=0.1, accuracy=0.99, parameters=1000):
    return benchmarks.Point(model, "digit", accuracy, parameters, True, reported, here)


def places(page, css_class):
    return [float(x) for x in re.findall(rf'class="{css_class}" cx="([\d.]+)"', page)]


def test_plot_shows_both_measurements_in_order():
    page = benchmarks.html([point()], {"digit": "digits"}, 7, "CPU")
    assert places(page, "zoo-dot-report")[0] < places(page, "zoo-dot-here")[0]
    assert "takes 2.0 times as long as in the report" in page
    assert "a.plus 99.00%, 0.2 ms for one image, 0.1 in the report" in page


@pytest.mark.parametrize("points", [[], [point(here=None, reported=None)], [point("<b>", reported=None)]])
def test_plots_of_unmeasured_and_own_models(points):
    page = benchmarks.html(points, {"digit": "digits", "photo": "photographs"}, 7, "CPU")
    assert "The report has no model of this server." in page
    assert "<b>" not in page


def test_all_points_and_names_are_inside_the_plot():
    random = np.random.default_rng(0)
    points = [
        point(
            f"model{n}.plus", *10 ** random.uniform(-3, 2, 2), random.uniform(0.1, 1), int(10 ** random.uniform(2, 7))
        )
        for n in range(20)
    ]
    page = benchmarks.html(points, {"digit": "digits"}, 7, "CPU")
    for axis, limit in (("cx", benchmarks.WIDTH), ("cy", benchmarks.HEIGHT), ("x", benchmarks.WIDTH)):
        assert all(0 <= float(value) <= limit for value in re.findall(rf' {axis}="([\d.-]+)"', page))
