"""The output `known`: made images, the head, its graph, and models with and without it."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench import known_cost
from train import known, negatives, unknown
from zoo import registry
from zoo.card import Known
from zoo.errors import BadModel, ExportError, WrongUsage
from zoo.inspection.onnx_layers import layers
from zoo.loading import load
from zoo.model import Model

pytestmark = pytest.mark.slow
RANDOM = np.random.default_rng(0)
SHAPES = {"digit": (28, 28, 1), "photo": (32, 32, 3)}


def images(form, count=40):
    if form == "photo":
        return RANDOM.integers(0, 256, (count, *SHAPES[form]), np.uint8)
    digits = np.zeros((count, *SHAPES[form]), np.uint8)
    digits[:, 4:24, 12:16] = 255
    return digits


@pytest.mark.parametrize("form", SHAPES)
def test_made_images_depend_on_seed_and_number_only(form):
    source = images(form)
    few, more = negatives.negatives(form, source, 12, 5), negatives.negatives(form, source, 20, 5)
    assert np.array_equal(few.images, more.images[:12])
    assert few.kinds == more.kinds[:12]
    assert not np.array_equal(few.images, negatives.negatives(form, source, 12, 6).images)
    assert few.images.dtype == np.uint8
    assert few.images.shape == (12, *SHAPES[form])


@pytest.mark.parametrize("form", SHAPES)
def test_every_kind_makes_images(form):
    kinds = negatives.DIGIT_KINDS if form == "digit" else negatives.PHOTO_KINDS
    for _, make in kinds.values():
        for seed in range(5):
            image = make(np.random.default_rng(seed), images(form))
            assert (image.dtype, image.shape) == (np.uint8, SHAPES[form])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("side", [20, 64])
def test_photographs_may_have_any_shape(side, channels):
    source = RANDOM.integers(0, 256, (5, side, side + 4, channels), np.uint8)
    assert negatives.negatives("photo", source, 40, 0).images.shape == (40, *source.shape[1:])
    assert negatives.positives("photo", source, 0).shape == source.shape


def head_for(content, seed=0):
    features = known.features_of(content, "x")(images("digit"))
    random = np.random.default_rng(seed)
    hidden = random.normal(0, 0.1, (features.shape[1], 8)).astype(np.float32)
    return known.Head(hidden, np.zeros(8, np.float32), random.normal(0, 1, 8).astype(np.float32))


def with_known(name="mnist14k.notes", bound=0.5):
    entry = registry.find(name)
    content = entry.read("model.onnx")
    head = head_for(content)
    model = known.with_head(onnx.load_model_from_string(content), head)
    calibration = replace(entry.card.calibration, known_from=bound)
    known.replace_card(model, replace(entry.card.embedded(), calibration=calibration, known=Known("test")))
    return content, model.SerializeToString(), head


@pytest.mark.parametrize("name", ["mnist14k.notes", "mnist4k.plus", "mnist14k.plus-int8"])
def test_logits_do_not_change_and_known_is_the_heads_value(name):
    content, new, head = with_known(name)
    known.check_unchanged(content, new, name, RANDOM.integers(0, 256, (64, 28, 28, 1), np.uint8))
    model, pixels = Model(new, "cpu"), RANDOM.integers(0, 256, (33, 28, 28, 1), np.uint8)
    scores = model.run(pixels)
    np.testing.assert_allclose(scores.known, head(known.features_of(content, name)(pixels)), atol=2e-6)
    alone = np.concatenate([model.run(image[np.newaxis]).known for image in pixels])
    np.testing.assert_allclose(alone, scores.known, atol=2e-6)


def test_a_second_head_replaces_the_first():
    _, new, _ = with_known()
    model = known.with_head(onnx.load_model_from_string(new), head_for(new, seed=1))
    assert [output.name for output in model.graph.output] == ["logits", "probabilities", "known"]
    assert known.features_name(model) == known.features_name(onnx.load_model_from_string(new))
    assert layers(model) == layers(onnx.load_model_from_string(new)) == registry.find("mnist14k.notes").card.layers


@pytest.mark.parametrize("name", ["mnist14k.notes", "mnist4k.plus", "mnist14k.plus-int8", "resnet8.plus"])
def test_head_is_read_from_its_graph(name):
    """Flatten only where the features are maps, and one node fewer to run than in the first version."""
    model = onnx.load_model_from_string(registry.find(name).read("model.onnx"))
    head = known.head_of(model)
    again = known.with_head(model, head)
    for own, other in zip(vars(head).values(), vars(known.head_of(again)).values(), strict=True):
        assert np.array_equal(own, other)
    nodes = [node.op_type for node in again.graph.node if node.name.startswith(known.PREFIX)]
    flat = [] if name in ("mnist4k.plus", "resnet8.plus") else ["Flatten"]
    assert nodes == [*flat, "Gemm", "Relu", "Gemm", "Sigmoid", "Squeeze"]
    assert known.head_of(known.without_head(again)) is None


def first_graph(content, head):
    """A head as the first version wrote it."""
    model = known.without_head(onnx.load_model_from_string(content))
    features = known.features_name(model)
    for name, values in (("w1", head.w1), ("b1", head.b1), ("w2", head.w2)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, f"known.{name}"))
    for operator, inputs, output in (
        ("Flatten", [features], "known.features"),
        ("Gemm", ["known.features", "known.w1", "known.b1"], "known.sums"),
        ("Relu", ["known.sums"], "known.hidden"),
        ("MatMul", ["known.hidden", "known.w2"], "known.score"),
        ("Sigmoid", ["known.score"], "known"),
    ):
        model.graph.node.append(onnx.helper.make_node(operator, inputs, [output], f"{output}_node"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("known", onnx.TensorProto.FLOAT, ["N"]))
    return model.SerializeToString()


@pytest.mark.parametrize("name", ["mnist14k.plus", "mnist4k.plus", "mnist10k.plus-int8"])
def test_shipped_graphs_are_rewritten_without_training(name, tmp_path, data_folder):
    """Logits and probabilities equal to the bit, `known` up to rounding; a second time nothing changes."""
    entry = registry.find(name)
    content = entry.read("model.onnx")
    old = first_graph(content, known.head_of(onnx.load_model_from_string(content)))
    card = next(known.rewrite([name], data_folder, tmp_path))
    new = (tmp_path / name / "model.onnx").read_bytes()
    assert replace(card, files=()) == replace(entry.card, files=())
    assert registry.open_folder(tmp_path / name).card == card
    pixels = RANDOM.integers(0, 256, (64, *card.input.shape), np.uint8)
    for size in (1, 16, 64):
        before, after = Model(old, "cpu").run(pixels[:size]), Model(new, "cpu").run(pixels[:size])
        assert np.array_equal(before.logits, after.logits)
        assert np.array_equal(before.probabilities, after.probabilities)
        np.testing.assert_allclose(before.known, after.known, rtol=0, atol=known.ROUNDING)
    again = known.with_head(onnx.load_model_from_string(new), known.head_of(onnx.load_model_from_string(new)))
    assert again.SerializeToString() == new


def test_cost_is_measured_against_the_same_network():
    model = load("mnist4k.plus")
    plain = known_cost.without_known(model)
    pixels = images("digit", 3)
    assert plain.run(pixels).known is None
    assert np.array_equal(plain.run(pixels).logits, model.run(pixels).logits)
    times = known_cost.measure(model, 1, rounds=2)
    assert times.shape == (2, 2)
    assert (times > 0).all()


def test_rewriting_is_refused_where_the_head_changes():
    _, new, head = with_known()
    other = known.with_head(onnx.load_model_from_string(new), replace(head, w2=head.w2 + np.float32(0.1)))
    pixels = images("digit")
    known.check_unchanged(new, other.SerializeToString(), "x", pixels)
    with pytest.raises(ExportError, match="output known of x changes by more than"):
        known.check_unchanged(new, other.SerializeToString(), "x", pixels, same_head=True)


def test_card_and_graph_must_agree():
    content, new, _ = with_known()
    model = onnx.load_model_from_string(new)
    card = Model(new, "cpu").card
    known.replace_card(model, replace(card, calibration=replace(card.calibration, known_from=None)))
    with pytest.raises(BadModel, match="lacks a bound"):
        Model(model.SerializeToString(), "cpu")
    model = known.without_head(onnx.load_model_from_string(content))
    known.replace_card(model, card)
    with pytest.raises(BadModel, match="has a bound for the output known, which the network lacks"):
        Model(model.SerializeToString(), "cpu")


@pytest.mark.parametrize(("bound", "expected"), [(0.0, True), (1.0, False)])
def test_rows_follow_the_bound(bound, expected):
    _, new, _ = with_known(bound=bound)
    row = Model(new, "cpu").predict(images("digit")[0])
    assert row.known is expected
    assert row.label is not None
    assert ("none of the classes" in repr(row)) is not expected


def test_a_model_without_the_output_has_no_answer():
    content, _, _ = with_known()
    entry = registry.find("mnist14k.notes")
    model = known.without_head(onnx.load_model_from_string(content))
    known.replace_card(
        model, replace(entry.card.embedded(), calibration=replace(entry.card.calibration, known_from=None), known=None)
    )
    opened = Model(model.SerializeToString(), "cpu")
    assert opened.run(images("digit")).known is None
    assert opened.predict(images("digit")[0]).known is None


def test_the_head_separates_what_it_is_trained_to_separate():
    random = np.random.default_rng(0)
    good, bad = random.normal(1, 1, (600, 20)), random.normal(-1, 1, (600, 20))
    data = np.concatenate([good, bad]).astype(np.float32)
    head = known.fit_head(data, np.arange(1200) < 600, np.ones(1200, np.float32))
    assert known.auroc(head(data[:600]), head(data[600:])) > 0.99


@settings(deadline=None)
@given(arrays(np.float32, st.integers(20, 300), elements=st.floats(0, 1, width=32)))
def test_the_bound_keeps_the_share(scores):
    assert (scores >= known.bound_of(scores)).mean() >= known.SHARE_KNOWN


def test_auroc_counts_pairs():
    positive, negative = np.float32([0.9, 0.5, 0.5]), np.float32([0.5, 0.1])
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert known.auroc(positive, negative) == pytest.approx(np.mean(pairs))


def test_unknown_patterns_and_models_without_the_output():
    with pytest.raises(WrongUsage, match="No shipped model matches"):
        known.matching(["imagenet*"])
    assert known.matching(["mnist14k.plus", "mnist*"])[0] == "mnist14k.plus"
    content, _, _ = with_known()
    model = known.without_head(onnx.load_model_from_string(content))
    card = registry.find("mnist14k.notes").card.embedded()
    known.replace_card(model, replace(card, calibration=replace(card.calibration, known_from=None), known=None))
    with pytest.raises(ExportError, match="no output known"):
        unknown.scores_of(Model(model.SerializeToString(), "cpu"), images("digit"))


def test_models_of_own_images_answer_known_where_a_bound_is_possible():
    entry = registry.find("mnist14k.notes")
    model = known.without_head(onnx.load_model_from_string(entry.read("model.onnx")))
    card = replace(entry.card.embedded(), calibration=replace(entry.card.calibration, known_from=None), known=None)
    few = known.add_own_head(model, card, images("digit", 60), images("digit", known.OWN_VALIDATION - 1))
    assert few[1] == card
    graph, with_bound = known.add_own_head(model, card, images("digit", 60), images("digit", 40))
    assert with_bound.known.made_auroc >= known.OWN_AUROC
    known.replace_card(graph, with_bound)
    assert Model(graph.SerializeToString(), "cpu").predict(images("digit")[0]).known is True


def test_a_head_that_cannot_separate_is_left_out(monkeypatch):
    entry = registry.find("mnist14k.notes")
    model = known.without_head(onnx.load_model_from_string(entry.read("model.onnx")))
    card = replace(entry.card.embedded(), calibration=replace(entry.card.calibration, known_from=None), known=None)
    monkeypatch.setattr(known, "OWN_AUROC", 1.01)
    assert known.add_own_head(model, card, images("digit", 60), images("digit", 40))[1] == card
