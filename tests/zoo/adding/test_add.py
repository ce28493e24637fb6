"""Classifiers of other programs become models of the zoo, with the same answers; everything else is one clear error."""

import json
import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import zoo
from tests.support.onnx_models import answers, classifier, save, softmax
from zoo import registry
from zoo.adding import graph
from zoo.adding.samples import made_pictures
from zoo.errors import BadModel, ExportError, ModelNotFound, WrongUsage, ZooError
from zoo.images.photos import fit_to_input

LABELS = ["cat", "dog", "cow"]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(autouse=True)
def home(empty_home):
    return empty_home


def pixels(count=5, side=8, channels=3):
    """Noise of several colours, so that the answers differ."""
    generator = np.random.default_rng(1)
    noise = generator.integers(0, 256, (count, side, side, channels)) * generator.uniform(0, 1, (count, 1, 1, channels))
    return noise.astype(np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "nhwc"},
        {"opset": 9, "ir_version": 3},
        {"opset": 13, "softmax": True},
        {"opset": 11, "softmax": True, "layout": "nhwc"},
        {"batch": 1},
        {"batch": 1, "end": "reshape", "reshape": (1, -1)},
        {"batch": 1, "end": "reshape", "reshape": (1, 6)},
        {"batch": 4, "end": "reshape", "reshape": (4, 6)},
        {"end": "conv", "batch": 1},
        {"end": "conv", "softmax": True},
        {"classes": 7},
    ],
    ids=str,
)
def test_added_model_gives_the_answers_of_the_file(tmp_path, options):
    model = classifier(**options)
    labels = [f"label {number}" for number in range(options.get("classes", 3))]
    card = zoo.add(save(model, tmp_path / "m.onnx"), "own.m", labels, mean=MEAN, std=STD)
    images = pixels()
    values = ((images / 255 - MEAN) / STD).astype(options.get("dtype", "float32"))
    if options.get("layout") != "nhwc":
        values = values.transpose(0, 3, 1, 2)
    single = classifier(**options | {"batch": None, "reshape": (1, -1)})
    expected = answers(single, values)
    if not options.get("softmax"):
        expected = softmax(expected)
    opened = zoo.load("own.m", "cpu")
    for count in (1, 3, 5):
        scores = opened.run(images[:count])
        np.testing.assert_allclose(scores.probabilities, expected[:count], atol=1e-5)
        np.testing.assert_allclose(softmax(scores.logits.astype(float)), expected[:count], atol=1e-5)
    assert np.ptp(expected[:, 0]) > 0.01  # the answers differ
    assert opened.card == card.embedded()
    assert (card.accuracy, card.dataset, card.training) == (None, None, None)
    assert registry.find("own.m").card == card


def test_half_precision_pixels_of_8_bits_grey_and_blue_first(tmp_path):
    images = pixels()
    card = zoo.add(save(classifier(dtype="float16"), tmp_path / "h.onnx"), "half", LABELS, mean=MEAN, std=STD)
    values = ((images / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    expected = softmax(answers(classifier(), values))
    np.testing.assert_allclose(zoo.load("half").run(images).probabilities, expected, atol=0.02)
    assert card.parameters.deployed == 6 * 27 + 6 + 18 + 3 + 6  # the last are mean and std

    zoo.add(save(classifier(dtype="uint8", layout="nhwc"), tmp_path / "u.onnx"), "bytes", LABELS)
    expected = softmax(answers(classifier(layout="nhwc"), (images / 255).astype(np.float32)))
    np.testing.assert_allclose(zoo.load("bytes").run(images).probabilities, expected, atol=1e-5)
    with pytest.raises(WrongUsage, match="omit --mean"):
        zoo.add(tmp_path / "u.onnx", "bytes2", LABELS, mean=MEAN, std=STD)

    zoo.add(save(classifier(), tmp_path / "b.onnx"), "bgr", LABELS, mean=MEAN, std=STD, channels="bgr")
    values = ((images[..., ::-1] / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    expected = softmax(answers(classifier(), values))
    np.testing.assert_allclose(zoo.load("bgr").run(images).probabilities, expected, atol=1e-5)

    zoo.add(save(classifier(channels=1), tmp_path / "g.onnx"), "grey", LABELS, mean=[0.5], std=[0.5], channels="grey")
    picture = made_pictures(1)[0]
    row = zoo.load("grey").predict(picture)
    small = Image.fromarray(picture).convert("L").resize((10, 8), Image.Resampling.BILINEAR)
    seen = np.asarray(small)[:, 1:9, np.newaxis]  # 240x320 becomes 8x10
    values = ((seen[np.newaxis] / 255 - 0.5) / 0.5).astype(np.float32).transpose(0, 3, 1, 2)
    expected = softmax(answers(classifier(channels=1), values))
    assert row.probability == pytest.approx(expected.max(), abs=1e-5)
    assert "converted to grey" in row.corrections


def test_digit_form_gets_the_corrections_of_digits(tmp_path):
    path = save(classifier(side=28, channels=1, classes=10), tmp_path / "d.onnx")
    card = zoo.add(path, "digits", [str(digit) for digit in range(10)], form="digit")
    assert (card.input.form, card.input.resize) == ("digit", None)
    assert (
        "inverted: the ink was dark"
        in zoo.load("digits").predict(np.pad(np.zeros((40, 5), np.uint8), 40, constant_values=255)).corrections
    )
    with pytest.raises(WrongUsage, match="28x28x1"):
        zoo.add(save(classifier(), tmp_path / "m.onnx"), "m", LABELS, form="digit")


def test_sigmoids_and_other_probabilities(tmp_path):
    model = classifier()
    model.graph.node[-1].CopyFrom(helper.make_node("Sigmoid", ["scores"], ["out"]))
    with pytest.raises(BadModel, match="ends in a sigmoid"):
        zoo.add(save(model, tmp_path / "s.onnx"), "s", LABELS)
    with pytest.raises(WrongUsage, match="has no probabilities"):
        zoo.add(save(classifier(), tmp_path / "m.onnx"), "m", LABELS, output="probabilities")
    model = classifier(softmax=True)  # probabilities that a last operator does not show
    model.graph.node[-1].CopyFrom(helper.make_node("Max", ["shares"], ["out"]))
    zoo.add(save(model, tmp_path / "p.onnx"), "p", LABELS)
    scores = zoo.load("p").run(pixels())
    expected = answers(model, (pixels() / 255).astype(np.float32).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(scores.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(softmax(scores.logits.astype(float)), expected, atol=1e-5)


def test_weights_in_other_files(tmp_path):
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    path = folder / "m.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="data/weights.bin", size_threshold=0)
    zoo.add(path, "own.external", LABELS, mean=MEAN, std=STD)
    zoo.add(save(classifier(), tmp_path / "inside.onnx"), "own.inside", LABELS, mean=MEAN, std=STD)
    scores = [zoo.load(name).run(pixels()).logits for name in ("own.external", "own.inside")]
    np.testing.assert_array_equal(*scores)


def external(tmp_path, **changes):
    """The path of a model whose first weight is external, with changed entries."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(bytes(10_000))
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    os.symlink(tmp_path / "secret.bin", tmp_path / "model" / "link.bin")
    os.mkfifo(tmp_path / "model" / "pipe")
    model = classifier()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin"} | changes).items():
        tensor.external_data.add(key=key, value=value.replace("TMP", str(tmp_path)))
    return save(model, tmp_path / "model" / "m.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"location": "../secret.bin"}, "outside of its folder"),
        ({"location": "a/../../secret.bin"}, "outside of its folder"),
        ({"location": "TMP/secret.bin"}, "outside of its folder"),
        ({"location": "C:\\secret.bin"}, "outside of its folder"),
        ({"location": "C:secret.bin"}, "outside of its folder"),
        ({"location": ""}, "outside of its folder"),
        ({"location": "link.bin"}, "is a link to a file outside"),
        ({"location": "pipe"}, "is not a regular file"),
        ({"location": "x" * 300}, "cannot be read|is missing"),
        ({"location": "missing.bin"}, "missing.bin, which is missing"),
        ({"offset": "9999", "length": "648"}, "which has 10,000: the two files do not belong together"),
        ({"offset": "-1"}, "do not belong together"),
        ({"offset": "x"}, "not a number"),
        ({"length": "4"}, "cannot be opened|damaged"),
    ],
    ids=str,
)
def test_weights_outside_of_the_folder_are_refused(tmp_path, home, changes, message):
    with pytest.raises(BadModel, match=message):
        zoo.add(external(tmp_path, **changes), "m", LABELS)
    assert os.listdir(home / "models") == []


def test_weights_are_limited_in_size(tmp_path, home, monkeypatch):
    """All files together, because a file has many names; and what is taken from them, because tensors may share it."""
    monkeypatch.setattr("zoo.adding.foreign.LARGEST_MODEL", 25_000)
    path = external(tmp_path, length="100")
    model = onnx.load(path, load_external_data=False)
    for number in range(4):
        copy = model.graph.initializer.add()
        copy.CopyFrom(model.graph.initializer[0])
        copy.name = f"copy{number}"
        copy.external_data[0].value = "./" * number + "w.bin"
    with pytest.raises(BadModel, match="more than the limit of 5,000"):
        zoo.add(save(model, path), "m", LABELS)
    for tensor in model.graph.initializer[1:]:
        if tensor.external_data:
            tensor.external_data[0].value = "w.bin"
            tensor.external_data[1].value = "9000"
    with pytest.raises(BadModel, match="more bytes than the limit of 25,000"):
        zoo.add(save(model, path), "m", LABELS)
    assert os.listdir(home / "models") == []


def two_inputs():
    model = classifier()
    model.graph.input.append(helper.make_tensor_value_info("size", TensorProto.FLOAT, [1]))
    return model


def any_size():
    model = classifier()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.Clear()
        dim.dim_param = "side"
    return model


def segmentation():
    model = classifier()
    model.graph.node[-1].CopyFrom(helper.make_node("Identity", ["maps"], ["out"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 6, 8, 8]))
    return model


def fixed_batch():
    """A constant of the batch's size is added: it cannot be run with other sizes, or gives other answers."""
    model = classifier(batch=2)
    model.graph.initializer.append(numpy_helper.from_array(np.array([[1, 2, 3], [4, 5, 6]], np.float32), "rows"))
    model.graph.node[-1].CopyFrom(helper.make_node("Add", ["scores", "rows"], ["out"]))
    return model


def nan():
    model = classifier()
    model.graph.node[-1].CopyFrom(helper.make_node("Log", ["scores"], ["out"]))
    return model


def functions():
    model = classifier()
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    model.functions.append(function)
    return model


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (two_inputs, BadModel, r"has 2 inputs \(x, size\)"),
        (any_size, WrongUsage, "takes images of any size .* --size 224"),
        (segmentation, BadModel, r"not a classifier: no output has the shape .* out \(\?, 6, 8, 8\)"),
        (fixed_batch, BadModel, "batch size of 2 is fixed inside .* dynamic batch"),
        (nan, BadModel, "not finite numbers"),
        (functions, BadModel, "functions of its own"),
        (lambda: classifier(classes=1), BadModel, "one value per picture"),
        (lambda: classifier(classes=4), WrongUsage, "has 4 classes, but the number of labels in the list is 3"),
        (lambda: classifier(classes=2), WrongUsage, "has 2 classes, but the number of labels in the list is 3"),
        (lambda: classifier(channels=5), WrongUsage, "--layout"),
        (lambda: classifier(opset=6), BadModel, "opset 6, older than 7"),
        (lambda: classifier(opset=99), BadModel, "cannot be opened"),
        (lambda: onnx.ModelProto(), BadModel, "has no operators"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_no_classifier_is_refused_before_anything_is_written(tmp_path, home, make, kind, message):
    path = save(make(), tmp_path / "m.onnx")
    with pytest.raises(kind, match=message) as error:
        zoo.add(path, "own.m", LABELS)
    assert "\n" not in str(error.value)
    assert os.listdir(home / "models") == []


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", BadModel, "has no operators"),
        (b"not a model", BadModel, "not an ONNX model, or it is damaged"),
        (classifier().SerializeToString()[:300], BadModel, "not an ONNX model, or it is damaged"),
        (None, ModelNotFound, "There is no model file"),
    ],
)
def test_damaged_files(tmp_path, home, content, kind, message):
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(kind, match=message):
        zoo.add(tmp_path / "m.onnx", "own.m", LABELS)
    assert os.listdir(home / "models") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist14k.plus", "name of a model shipped"),
        ("mnist14k", "short name of a model shipped"),
        ("../x", "not a valid model name"),
        (".x", "not a valid model name"),
        ("taken", "already a model taken"),
    ],
)
def test_names_that_are_taken_or_invalid(tmp_path, home, name, message):
    path = save(classifier(), tmp_path / "m.onnx")
    zoo.add(path, "taken", LABELS)
    before = (home / "models" / "taken" / "model.onnx").read_bytes()
    with pytest.raises(WrongUsage, match=message):
        zoo.add(path, name, LABELS, mean=MEAN, std=STD)
    assert os.listdir(home / "models") == ["taken"]
    assert (home / "models" / "taken" / "model.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": (0.0, 1.0, 1.0)}, "must be above 0"),
        ({"mean": (0.1, 0.2)}, "--mean has 2 values, but the model takes 3"),
        ({"size": 9}, "is not 9x9: omit --size"),
        ({"resize_size": 7}, "--resize-size 8 or more"),
        ({"resize_size": 3000}, "more than the limit of 2048"),
        ({"channels": "grey"}, "does not fit --channels grey"),
        ({"output_name": "none"}, "has no output 'none'. It has: out"),
        ({"samples": "/nowhere"}, "is not a folder"),
        ({"preset": "none"}, "Unknown preset"),
        ({"licence": "x" * 20_000}, "card would be invalid"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(tmp_path, home, options, message):
    with pytest.raises(WrongUsage, match=message):
        zoo.add(save(classifier(), tmp_path / "m.onnx"), "own.m", LABELS, **options)
    assert os.listdir(home / "models") == []


def test_wrong_preprocessing_in_the_graph_is_found(tmp_path, home, monkeypatch):
    """The comparison does not share the graph's arithmetic, so a mistake in it is an error."""
    before = graph._before

    def wrong(package, expected, rules):
        made = before(package, expected, rules)
        next(tensor for tensor in made.initializer if tensor.name == "offset").raw_data = np.zeros(
            3, np.float32
        ).tobytes()
        return made

    monkeypatch.setattr(graph, "_before", wrong)
    with pytest.raises(ExportError, match="disagree: probabilities differ by up to 0"):
        zoo.add(save(classifier(), tmp_path / "m.onnx"), "own.m", LABELS, mean=MEAN, std=STD)
    assert os.listdir(home / "models") == []


def test_several_outputs(tmp_path):
    model = classifier()
    model.graph.node.append(helper.make_node("Softmax", ["scores"], ["shares"], axis=1))
    model.graph.output.append(helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["batch", 3]))
    model.graph.output.append(helper.make_tensor_value_info("means", TensorProto.FLOAT, ["batch", 6, 1, 1]))
    path = save(model, tmp_path / "m.onnx")
    with pytest.raises(WrongUsage, match=r"several outputs: .* --output-name out or shares"):
        zoo.add(path, "own.m", LABELS)
    for name in ("out", "shares"):
        zoo.add(path, f"own.{name}", LABELS, output_name=name)
    np.testing.assert_allclose(*(zoo.load(name).run(pixels()).logits for name in ("own.out", "own.shares")), atol=1e-6)


def test_labels_from_files(tmp_path):
    path = save(classifier(), tmp_path / "m.onnx")
    for number, (name, text) in enumerate(
        [
            ("a.txt", "cat\ndog\ncow\n"),
            ("b.txt", "\ufeffcat \r\n dog\r\ncow\r\n\r\n"),
            ("c.json", '["cat", "dog", "cow"]'),
            ("d.json", '{"2": "cow", "0": "cat", "1": "dog"}'),
        ]
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert zoo.add(path, f"own.m{number}", tmp_path / name).labels == ("cat", "dog", "cow")
    assert zoo.add(path, "own.twice", ["crane", "dog", "crane"]).labels == ("crane (0)", "dog", "crane (2)")
    for name, content, message in (
        ("e.txt", b"\xff\xfe", "not UTF-8"),
        ("f.json", b"{", "not a JSON list"),
        ("g.json", b"[1, 2, 3]", "not a JSON list"),
        ("h.txt", b"cat\n\ncow", "Label 2 of .* is ''"),
        ("i.txt", b"cat\nd\x1bog\ncow", "printable"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WrongUsage, match=message):
            zoo.add(path, "own.bad", tmp_path / name)
    with pytest.raises(WrongUsage, match="no labels in its metadata"):
        zoo.add(path, "own.bad")
    with pytest.raises(WrongUsage, match="There is no"):
        zoo.add(path, "own.bad", tmp_path / "none.txt")


def test_metadata_of_ultralytics(tmp_path):
    metadata = {"names": "{0: 'cat', 1: 'dog', 2: 'cow'}", "task": "classify", "imgsz": "[8, 8]", "stride": "1"}
    card = zoo.add(save(any_size(), tmp_path / "m.onnx", **metadata), "own.yolo")
    assert card.labels == ("cat", "dog", "cow")
    assert (card.input.shape, card.input.resize.size, card.input.resize.interpolation) == ((8, 8, 3), 8, "bilinear")
    assert card.origin.preprocessing.endswith("metadata of Ultralytics")
    with pytest.raises(BadModel, match="for the task detect"):
        zoo.add(save(classifier(), tmp_path / "d.onnx", **metadata | {"task": "detect"}), "own.d")
    for names in ("__import__('os').system('true')", "{", "[" * 1000):
        with pytest.raises(BadModel, match="cannot be read"):
            zoo.add(save(classifier(), tmp_path / "e.onnx", **metadata | {"names": names}), "own.e")


def test_metadata_of_timm_and_transformers(tmp_path):
    (tmp_path / "timm").mkdir()
    rules = {"input_size": [3, 8, 8], "mean": MEAN, "std": STD, "crop_pct": 0.8, "interpolation": "bicubic"}
    config = {"architecture": "x", "pretrained_cfg": rules, "label_names": ["cat", "dog", "cow"]}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    path = save(classifier(), tmp_path / "timm" / "model.onnx")
    card = zoo.add(path, "own.timm")
    assert card.labels == ("cat", "dog", "cow")
    assert (card.input.resize.size, card.input.resize.interpolation, card.input.resize.fit) == (
        10,
        "bicubic",
        "shortest",
    )
    zoo.add(path, "own.options", LABELS, mean=MEAN, std=STD)
    np.testing.assert_array_equal(*(zoo.load(name).run(pixels()).logits for name in ("own.timm", "own.options")))
    assert zoo.add(path, "own.wins", interpolation="nearest", resize_size=9).input.resize.size == 9

    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"id2label": {"1": "dog", "0": "cat", "2": "cow"}}))
    processor = {
        "do_resize": True, "size": {"shortest_edge": 12}, "do_center_crop": True,
        "crop_size": {"height": 8, "width": 8}, "do_normalize": True, "image_mean": MEAN, "image_std": STD,
        "resample": 3, "rescale_factor": 1 / 255,
    }  # fmt: skip
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processor))
    card = zoo.add(shutil.copy(path, tmp_path / "hf"), "own.hf")
    assert card.labels == ("cat", "dog", "cow")
    assert (card.input.resize.size, card.input.resize.interpolation) == (12, "bicubic")
    np.testing.assert_array_equal(*(zoo.load(name).run(pixels()).logits for name in ("own.hf", "own.options")))
    processor |= {"size": {"height": 8, "width": 8}, "do_center_crop": False, "do_normalize": False, "resample": 2}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processor))
    card = zoo.add(tmp_path / "hf" / "model.onnx", "own.vit")
    assert card.input.resize.fit == "exact"
    assert "pixels / 255, minus (0, 0, 0)" in card.origin.preprocessing
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processor | {"image_mean": 1, "resample": 77}))
    with pytest.raises(BadModel, match="cannot be read"):
        zoo.add(tmp_path / "hf" / "model.onnx", "own.bad")


def test_samples_of_ones_own(tmp_path):
    (tmp_path / "pictures" / "sub").mkdir(parents=True)
    for number, picture in enumerate(made_pictures(3)):
        Image.fromarray(picture).save(tmp_path / "pictures" / "sub" / f"{number}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    path = save(classifier(), tmp_path / "m.onnx")
    assert "3 pictures of yours" in zoo.add(path, "own.m", LABELS, samples=tmp_path / "pictures").origin.parity
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongUsage, match="no picture that can be read"):
        zoo.add(path, "own.n", LABELS, samples=tmp_path / "empty")


def test_commands_that_need_accuracy_say_that_it_is_missing(tmp_path):
    card = zoo.add(save(classifier(), tmp_path / "m.onnx"), "own.m", LABELS)
    with pytest.raises(BadModel, match="no data set, accuracy or training"):
        _ = card.trained


def test_non_square_input(tmp_path):
    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 24
    card = zoo.add(save(model, tmp_path / "m.onnx"), "own.m", LABELS)
    assert (card.input.shape, card.input.resize.fit) == ((8, 24, 3), "exact")
    picture = made_pictures(1)[0]
    seen, _ = fit_to_input(picture, card.input, "crop")
    np.testing.assert_array_equal(seen, Image.fromarray(picture).resize((24, 8), Image.Resampling.BILINEAR))


def test_missing_onnx_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx.compose", None)
    with pytest.raises(ZooError, match="pocketzoo\\[inspect\\]"):
        zoo.add(save(classifier(), tmp_path / "m.onnx"), "own.m", LABELS)


@pytest.mark.slow
def test_damaged_bytes_give_a_result_or_an_error_of_ours(tmp_path, home):
    """Bits, bytes and lengths of the file are changed at random; nothing but ZooError may be raised."""
    generator = np.random.default_rng(0)
    content = classifier(batch=1, end="reshape", softmax=True).SerializeToString()
    refused = 0
    for number in range(150):
        damaged = bytearray(content)
        for _ in range(generator.integers(1, 4)):
            # a half of the places is in the operators and in inputs and outputs, which weights surround
            place = int(generator.integers(len(damaged)) if generator.random() < 0.5 else generator.integers(400))
            kind = generator.integers(3)
            if kind == 0:
                damaged[place] ^= 1 << generator.integers(8)
            elif kind == 1:
                damaged[place : place + 1] = generator.bytes(generator.integers(1, 6))
            else:
                del damaged[place : place + generator.integers(1, 6)]
        (tmp_path / "m.onnx").write_bytes(damaged)
        try:
            zoo.add(tmp_path / "m.onnx", f"own.{number}", LABELS)
        except ZooError as error:
            message = str(error)
            refused += 1
        else:
            continue
        assert message.isprintable()
        assert not (home / "models" / f"own.{number}").exists()
    assert refused > 50
