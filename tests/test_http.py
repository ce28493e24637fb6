"""The HTTP application in this process: what each route answers, and what bad requests get."""

import asyncio
import json
import time
import tracemalloc
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

import serve.cli
from serve.http.app import build
from serve.pool import Overloaded, Pool
from serve.runner import Runner
from serve.settings import Settings
from tests.made_up import DEFAULT, REPOSITORY, VERSION

SEVEN = REPOSITORY / "examples" / "seven.png"
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    settings = Settings(demo=False, max_body_mb=1, folder=str(tmp_path_factory.mktemp("serve")), device="cpu")
    with TestClient(build(settings)) as client:
        yield client


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    settings = Settings(demo=False, models="mnist14k*", key="sésame", folder=str(tmp_path_factory.mktemp("serve")))
    with TestClient(build(settings)) as client:
        yield client


def row_of_the_command(*arguments):
    result = CliRunner().invoke(serve.cli.cli, ["predict", *arguments, "--format", "jsonl", "--device", "cpu"])
    return json.loads(result.stdout)


def post(client, path, **options):
    answer = client.post(path, **options)
    return answer.status_code, answer.json()


def test_an_image_gets_the_row_of_the_command(client):
    status, row = post(client, "/models/mnist14k/predict?top_k=2", content=SEVEN.read_bytes(), headers=PNG)
    expected = row_of_the_command(str(SEVEN), "--model", "mnist14k", "--top-k", "2")
    assert status == 200
    assert row == expected | {"input": "-"}
    assert len(row["top_k"]) == 2


@pytest.mark.parametrize("charset", ["utf-7", "utf-16-le", "unicode_escape", "punycode", "no-such"])
def test_a_forms_character_set_is_no_failure(client, charset):
    """Some of them decode a file's name to surrogates, which no JSON can hold."""
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="+2AA-\\ud800\xff.png"\r\n\r\n'
    kind = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    form = head + SEVEN.read_bytes() + b"\r\n--b--\r\n"
    status, answer = post(client, "/models/mnist14k/predict", content=form, headers=kind)
    assert (status == 200 and answer[0]["label"] == "7") or (status == 422 and answer["error"]), answer


def test_a_photograph_and_its_fit(client):
    from skimage import data

    folder = Path(data.__file__).parent
    content = (folder / "chelsea.png").read_bytes()
    for fit in ("crop", "whole"):
        _, row = post(client, f"/models/resnet8/predict?fit={fit}", content=content, headers=PNG)
        expected = row_of_the_command(str(folder / "chelsea.png"), "--model", "resnet8", "--fit", fit)
        assert row == expected | {"input": "-"}


def test_a_form_of_files_gets_a_row_each_and_a_bad_one_fails_alone(client):
    files = [
        ("file", ("a.png", SEVEN.read_bytes())),
        ("x", ("b.txt", b"no image")),
        ("file", ("c é.png", SEVEN.read_bytes())),
    ]
    status, rows = post(client, "/models/mnist14k/predict", files=files, data={"note": "a field is no file"})
    assert status == 200
    assert [(row["input"], row["label"]) for row in rows] == [("a.png", "7"), ("b.txt", None), ("c é.png", "7")]
    assert rows[1]["error"] == (
        "b.txt is not an image that can be read: PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, PGM and PPM are understood."
    )


BAD = {
    "not an image": (400, "predict", {"content": b"text", "headers": PNG}, "is not an image that can be read"),
    "empty": (400, "predict", {"content": b"", "headers": PNG}, "is empty"),
    "other kind": (
        415,
        "predict",
        {"content": b"{}", "headers": {"Content-Type": "application/json"}},
        "--data-binary",
    ),
    "compressed": (
        415,
        "predict",
        {"content": b"x", "headers": {**PNG, "Content-Encoding": "gzip"}},
        "Content-Encoding",
    ),
    "too large": (413, "predict", {"content": bytes(1_000_001), "headers": PNG}, "larger than 1 MB"),
    "no boundary": (422, "predict", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, "form"),
    "no files": (422, "predict", {"files": [("f", (None, b"field"))]}, "holds no files"),
    "top_k 0": (422, "predict?top_k=0", {"content": b"x", "headers": PNG}, "at least 1, not '0'"),
    "top_k word": (422, "predict?top_k=two", {"content": b"x", "headers": PNG}, "at least 1, not 'two'"),
    "top_k of many digits": (422, f"predict?top_k={'1' * 5000}", {"content": b"x", "headers": PNG}, "at least 1, not"),
    "fit": (422, "predict?fit=tight", {"content": b"x", "headers": PNG}, "one of crop, whole, not 'tight'"),
    "parameter": (422, "predict?topk=1", {"content": b"x", "headers": PNG}, "no parameter 'topk'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_get_their_status_and_a_sentence(client, case):
    status, path, options, sentence = BAD[case]
    got, answer = post(client, f"/models/mnist14k/{path}", **options)
    assert got == status
    assert sentence in answer["error"]
    assert answer["error"].endswith((".", "."))


def test_a_body_without_a_length_is_refused_while_it_comes(client):
    read = []

    def endless():
        for number in range(1000):
            read.append(number)
            yield bytes(100_000)

    assert client.post("/models/mnist14k/predict", content=endless(), headers=PNG).status_code == 413


def test_unknown_models_methods_and_places(client):
    assert post(client, "/models/mnst14k/predict")[1]["error"].startswith("There is no model 'mnst14k': did you mean")
    assert client.get("/models/mnst14k").status_code == 404
    assert client.get("/v2/models/mnst14k").json()["error"].startswith("There is no model 'mnst14k': did you mean")
    answer = client.get("/models/mnist14k/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert client.get("/nowhere").json() == {"error": "There is nothing at GET /nowhere: /docs shows what there is."}


def test_cards(client):
    import zoo

    cards = client.get("/models").json()
    assert [card["name"] for card in cards] == [card.name for card in zoo.list_models()]
    card = client.get("/models/mnist14k").json()
    assert card["name"] == DEFAULT
    assert card["parameters"]["keras"] == 14624


def test_every_answer_has_an_id_and_its_timing(client):
    predicted = client.post("/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)
    names = [part.split(";")[0].strip() for part in predicted.headers["server-timing"].split(",")]
    assert names == ["decode", "queue", "infer", "total"]
    given = client.get("/models", headers={"X-Request-ID": "from-the-client-1"})
    assert given.headers["x-request-id"] == "from-the-client-1"
    assert "total;dur=" in given.headers["server-timing"]
    ids = {client.get("/v2", headers={"X-Request-ID": bad}).headers["x-request-id"] for bad in ("", "a b", "x" * 200)}
    assert len(ids) == 3
    assert not ids & {"", "a b", "x" * 200}


def test_openapi_describes_the_routes_that_the_framework_does_not_see(client):
    schema = client.get("/openapi.json").json()
    assert {"/models/{name}/predict", "/v2/models/{name}/infer", "/models", "/metrics"} <= set(schema["paths"])
    page = client.get("/docs").text
    assert "cdn" not in page


def test_metrics_count_by_outcome_and_stage(client):
    def value(name):
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name + " ")]
        return float(lines[0].split()[1])

    ok, bad = (
        'zoo_requests_total{outcome="ok",route="predict"}',
        'zoo_requests_total{outcome="bad_input",route="predict"}',
    )
    decoded = 'zoo_stage_seconds_count{stage="decode"}'
    before = value(ok), value(bad), value(decoded)
    post(client, "/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)
    post(client, "/models/mnist14k/predict", content=b"no", headers=PNG)
    assert (value(ok), value(bad), value(decoded)) == (before[0] + 1, before[1] + 1, before[2] + 2)
    assert value("zoo_in_flight") == 1  # the scrape itself
    assert value("zoo_queue_length") == 0
    assert value('zoo_batch_rows_bucket{le="+Inf"}') >= 1


@pytest.fixture
def images_counted(client):
    def count():
        lines = client.get("/metrics").text.splitlines()
        start = f'zoo_images_total{{model="{DEFAULT}",outcome="'
        return {line.split('"')[3]: float(line.split()[-1]) for line in lines if line.startswith(start)}

    before = count()
    return lambda: {word: value - before[word] for word, value in count().items() if value != before[word]}


def test_an_inference_that_fails_is_counted(client, images_counted):
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [2], "data": [b64encode(b"no image").decode()] * 2}
    infer(client, {"inputs": [tensor]})
    assert images_counted() == {"failed": 2}


def test_what_was_not_answered_is_not_counted_as_answered(client, images_counted, monkeypatch):
    async def refuse(pool, ticket):
        raise Overloaded("Full.")

    monkeypatch.setattr(Pool, "answer", refuse)
    post(client, "/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)
    assert images_counted() == {"unanswered": 1}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer sésame".encode()},
        {"X-API-Key": "sésame".encode()},
        {"Authorization": b"Basic " + b64encode("me:sésame".encode())},
    ],
)
def test_the_key_opens(locked, headers):
    assert locked.get("/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"X-API-Key": ""}, {"Authorization": "Basic %"}]
)
def test_without_the_key_only_health_is_told(locked, headers):
    answer = locked.post("/models/mnist14k/predict", content=b"x", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert locked.get("/metrics", headers=headers).status_code == 401
    assert locked.get("/v2/health/live", headers=headers).json() == {"live": True}
    assert locked.get("/v2/health/ready", headers=headers).json() == {"ready": True}


def infer(client, request, path="/v2/models/mnist14k/infer", **options):
    answer = client.post(path, **({"json": request} | options))
    return answer.status_code, answer.json()


def test_inference_protocol_in_json(client, model):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    for data in (images.ravel().tolist(), images.tolist()):
        tensor = {"name": "image", "datatype": "UINT8", "shape": [3, 28, 28, 1], "data": data}
        status, answer = infer(client, {"id": "mine", "inputs": [tensor]})
        assert status == 200
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", DEFAULT, VERSION)
        outputs = {output["name"]: output for output in answer["outputs"]}
        scores = model.run(images)
        assert np.array_equal(np.float32(outputs["logits"]["data"]).reshape(3, 10), scores.logits)
        assert outputs["probabilities"]["shape"] == [3, 10]
        assert outputs["label"]["data"] == [str(label) for label in scores.logits.argmax(1)]


def test_inference_protocol_with_image_files_as_base64(client, model):
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [b64encode(SEVEN.read_bytes()).decode()]}
    status, answer = infer(
        client, {"inputs": [tensor], "outputs": [{"name": "label"}]}, f"/v2/models/mnist14k/versions/{VERSION}/infer"
    )
    assert (status, answer["outputs"]) == (200, [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["7"]}])
    tensor["data"] = [b64encode(b"no image").decode()]
    status, answer = infer(client, {"inputs": [tensor]})
    assert status == 400
    assert answer["error"].startswith("Image 1 of 1 is not an image")


GOOD = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [0] * 784}
WRONG = {
    "no inputs": ({}, "takes one input"),
    "two": ({"inputs": [GOOD, GOOD]}, "takes one input"),
    "name": ({"inputs": [GOOD | {"name": "x"}]}, "no input 'x'"),
    "datatype": ({"inputs": [GOOD | {"datatype": "FP32"}]}, "is UINT8, not 'FP32'"),
    "shape": ({"inputs": [GOOD | {"shape": [1, 32, 32, 3]}]}, "of shape [N, 28, 28, 1], not [1, 32, 32, 3]"),
    "no rows": ({"inputs": [GOOD | {"shape": [0, 28, 28, 1]}]}, "at least 1"),
    "shape of words": ({"inputs": [GOOD | {"shape": ["a"]}]}, "at least 1"),
    "values": ({"inputs": [GOOD | {"data": [0] * 783}]}, "has 784 values; 'image' has 783"),
    "range": ({"inputs": [GOOD | {"data": [256] * 784}]}, "from 0 to 255"),
    "floats": ({"inputs": [GOOD | {"data": [0.5] * 784}]}, "from 0 to 255"),
    "ragged": ({"inputs": [GOOD | {"data": [[1], [1, 2]]}]}, "not nested as the shape"),
    "deeper": ({"inputs": [GOOD | {"data": [[[[[0]]]] * 784]}]}, "not nested as the shape"),
    "words": ({"inputs": [GOOD | {"data": ["0"] * 784}]}, "from 0 to 255"),
    "truths": ({"inputs": [GOOD | {"data": [True] * 784}]}, "from 0 to 255"),
    "below": ({"inputs": [GOOD | {"data": [-1] * 784}]}, "from 0 to 255"),
    "name that is a list": ({"inputs": [GOOD | {"name": ["image"]}]}, "no input ['image']"),
    "no data": ({"inputs": [{**GOOD, "data": None}]}, "neither 'data' nor"),
    "output": ({"inputs": [GOOD], "outputs": [{"name": "boxes"}]}, "no output 'boxes'"),
    "output that is a list": ({"inputs": [GOOD], "outputs": [{"name": []}]}, "no output []"),
    "output twice": ({"inputs": [GOOD], "outputs": [{"name": "logits"}] * 2}, "asked for twice"),
    "files": ({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1001], "data": [""] * 1001}]},
        "at most 1000 image files, not 1001"),
    "outputs": ({"inputs": [GOOD], "outputs": "label"}, "'outputs' is a list"),
    "parameters": ({"inputs": [GOOD | {"parameters": 3}]}, "'parameters' is an object"),
    "classification": ({"inputs": [GOOD], "outputs": [{"name": "label", "parameters": {"classification": 3}}]},
        "not served"),
    "binary that is not there": ({"inputs": [GOOD | {"parameters": {"binary_data_size": 784}}]}, "0 bytes follow"),
    "base64": ({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["%"]}]}, "base64"),
    "count": ({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [2], "data": ["aa=="]}]}, "1 items"),
    "id": ({"id": 3, "inputs": [GOOD]}, "id is a string"),
    "a list": ([1], "not a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inference_requests_get_a_sentence(client, case):
    request, sentence = WRONG[case]
    status, answer = infer(client, request)
    assert status == 422
    assert sentence in answer["error"]
    assert set(answer) == {"error"}


def test_inference_requests_that_cannot_be_read(client):
    assert infer(client, None, content=b"{", json=None)[0] == 400
    for told in ("99", "-1", "x", "9" * 5000):
        length = {"Inference-Header-Content-Length": told}
        assert infer(client, None, content=b"{}", json=None, headers=length)[0] == 422
    assert infer(client, {"inputs": [GOOD]}, "/v2/models/mnist14k/versions/7/infer")[1]["error"] == (
        f"There is no version '7' of {DEFAULT}: there is '{VERSION}'."
    )


def test_an_array_in_json_is_looked_at_before_it_takes_memory(client):
    """Words of unequal lengths: an array of them has room for the longest in each place."""
    tensor = GOOD | {"data": ["x" * 500_000, *["y"] * 783]}
    tracemalloc.start()
    try:
        assert infer(client, {"inputs": [tensor]})[0] == 422
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_as_many_binary_items_as_the_shape_says_are_read_and_no_more(client):
    head = json.dumps({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [2],
                                   "parameters": {"binary_data_size": 400_000}}]}).encode()  # fmt: skip
    status, answer = infer(client, None, content=head + bytes(400_000), json=None,
                           headers={"Inference-Header-Content-Length": str(len(head))})  # fmt: skip
    assert (status, answer["error"]) == (422, "'encoded' has shape [2] and 3 or more items.")


def test_what_nobody_foresaw_is_told_by_id_and_logged(client, monkeypatch, capsys):
    monkeypatch.setattr("serve.http.images.Named", None)
    answer = client.post("/models/mnist14k/predict", content=b"x", headers=PNG)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.json()["error"]
    assert "Traceback" in capsys.readouterr().err


def test_a_late_answer_is_no_answer(tmp_path, monkeypatch):
    """And the next request is not harmed by the deadline of the one before."""
    settings = Settings(demo=False, models="mnist14k*", deadline_ms=300, folder=str(tmp_path))
    slow = [True]

    async def answer(pool, ticket):
        if slow.pop():
            await asyncio.sleep(60)
        return await quick(pool, ticket)

    quick = Pool.answer
    monkeypatch.setattr(Pool, "answer", answer)
    with TestClient(build(settings)) as client:
        late = client.post("/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)
        assert late.status_code == 504
        assert late.json() == {"error": "There was no answer within 300 ms: ask again in a moment."}
        assert late.headers["retry-after"] == "1"
        for _ in range(3):
            slow.append(False)
            assert post(client, "/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)[1]["label"] == "7"
            time.sleep(0.2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_live_goes_false_when_a_worker_is_dead(tmp_path, monkeypatch):
    def die(self, images):
        raise SystemExit

    front = build(Settings(demo=False, models="mnist14k*", folder=str(tmp_path)))
    monkeypatch.setattr(Runner, "run", die)
    with TestClient(front) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.post("/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG).status_code == 503
        dead = client.get("/v2/health/live")
        assert (dead.status_code, dead.json()) == (503, {"live": False})
        assert client.get("/v2/models/mnist14k/ready").status_code == 503
