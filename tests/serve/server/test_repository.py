"""The model repository API: load, unload and list models while requests run, in one process and in several."""

import asyncio
import gc
import os
import shutil
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from serve.server import repository as module
from serve.server.app import build
from serve.service.metrics import ProcessSlots
from serve.service.pool import WorkItem
from serve.service.settings import Settings
from tests.support.command import zoo
from tests.support.paths import DEFAULT, REPOSITORY, add_model
from tests.support.server import free_port, serving, wait_for

SEVEN = (REPOSITORY / "examples" / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}
LOAD, UNLOAD, INDEX = "/v2/repository/models/{}/load", "/v2/repository/models/{}/unload", "/v2/repository/index"
NOTES = "mnist14k.notes"


def settings(folder, **options):
    return Settings(**{"models": "mnist14k*", "demo": False, "access_log": False, "folder": str(folder), **options})


@pytest.fixture
def client(tmp_path, empty_home):
    with TestClient(build(settings(tmp_path, model_control="explicit")), "http://127.0.0.1") as client:
        yield client


def predict(client, name):
    return client.post(f"/models/{name}/predict", content=SEVEN, headers=PNG)


def states(client, **body):
    return {entry["name"]: entry["state"] for entry in client.post(INDEX, json=body).json()}


def test_new_model_appears_on_load_and_goes_on_unload(client, empty_home):
    assert predict(client, "own.new").status_code == 404
    add_model(empty_home, "own.new")
    assert states(client)["own.new"] == "UNAVAILABLE"
    assert client.post(LOAD.format("own.new")).status_code == 200
    assert states(client)["own.new"] == "READY"
    assert predict(client, "own.new").json()["label"] == "7"
    assert predict(client, "own").json()["model"] == "own.new"
    assert client.get("/models/own.new").json()["name"] == "own.new"
    assert "own.new" in [card["name"] for card in client.get("/models").json()]
    assert client.post(UNLOAD.format("own.new")).status_code == 200
    assert client.post(UNLOAD.format("own.new")).status_code == 200  # the same request again, after a lost response
    assert predict(client, "own.new").status_code == 404
    assert "own.new" not in [card["name"] for card in client.get("/models").json()]
    assert "own.new" not in states(client, ready=True)
    assert states(client)["own.new"] == "UNAVAILABLE"


def test_index_lists_models_that_can_be_loaded(client):
    listed = client.post(INDEX).json()
    assert {entry["name"] for entry in listed if entry["state"] == "READY"} == set(states(client, ready=True))
    assert {entry["state"] for entry in listed if entry["name"].startswith("cifar")} == {"UNAVAILABLE"}
    assert all(set(entry) == {"name", "version", "state", "reason"} for entry in listed)


def test_default_of_an_architecture_follows_loads(client):
    assert predict(client, "mnist14k").json()["model"] == DEFAULT
    client.post(UNLOAD.format(DEFAULT))
    assert predict(client, "mnist14k").json()["model"] == NOTES
    client.post(LOAD.format(DEFAULT))
    assert predict(client, "mnist14k").json()["model"] == DEFAULT


def test_load_reads_the_model_again(client, empty_home):
    add_model(empty_home, "own.new")
    client.post(LOAD.format("own.new"))
    shutil.rmtree(empty_home / "models" / "own.new")
    assert predict(client, "own.new").json()["label"] == "7"  # the loaded model needs no file
    labels = [f"digit {number}" for number in range(10)]
    add_model(empty_home, "own.new", labels=labels)
    assert predict(client, "own.new").json()["label"] == "7"
    assert client.post(LOAD.format("own.new")).status_code == 200
    assert predict(client, "own.new").json()["label"] == "digit 7"


def test_damaged_model_is_not_loaded_and_the_old_one_stays(client, empty_home):
    folder = add_model(empty_home, "own.new")
    client.post(LOAD.format("own.new"))
    (folder / "model.onnx").write_bytes(b"not an ONNX file")
    answer = client.post(LOAD.format("own.new"))
    assert answer.status_code == 400
    assert "own.new cannot be loaded" in answer.json()["error"]
    assert str(empty_home) not in answer.text
    assert predict(client, "own.new").json()["label"] == "7"


@pytest.mark.parametrize("damage", ["not JSON", "another name", "link"])
def test_model_with_a_damaged_card_is_an_error_of_the_request(client, empty_home, damage):
    folder = add_model(empty_home, "own.new")
    if damage == "link":
        folder.rename(empty_home / "own.new")
        folder.symlink_to(empty_home / "own.new")
    elif damage == "not JSON":
        (folder / "card.json").write_text("{}")
    else:
        folder.rename(folder.with_name("own.other"))
    name = "own.other" if damage == "another name" else "own.new"
    for route in (LOAD, UNLOAD):
        answer = client.post(route.format(name))
        assert answer.status_code == 400
        assert f"{name} cannot be loaded" in answer.json()["error"]
        assert str(empty_home) not in answer.text


@pytest.mark.parametrize(
    "name", ["nothing.here", "mnist14k", "..%2f..%2fetc", "%2e%2e", "model.onnx", "x.onnx", "~", "mnist14k.notes%00"]
)
def test_only_full_names_of_the_registry_are_loaded(client, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a folder that a path could mean
    source = Path(module.registry.SHIPPED_FOLDER, NOTES)
    shutil.copy(source / "model.onnx", tmp_path / "x.onnx")
    shutil.copytree(source, tmp_path / "nothing.here")
    for route in (LOAD, UNLOAD):
        answer = client.post(route.format(name))
        assert answer.status_code == 404, answer.text


@pytest.mark.parametrize(
    "body", [{"config": "{}"}, {"file:1/model.onnx": "AAAA"}, {"path": "/tmp/x.onnx"}, ["config"], "text"]
)
def test_parameters_that_bring_a_model_are_rejected(client, body):
    answer = client.post(LOAD.format(NOTES), json={"parameters": body})
    assert answer.status_code == 400
    assert predict(client, NOTES).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"x" * 10])
def test_body_that_is_no_object_is_rejected(client, body):
    assert client.post(LOAD.format(NOTES), content=body).status_code == 400
    assert client.post(INDEX, content=body).status_code == 400


def test_large_body_is_rejected(client):
    assert client.post(INDEX, content=b" " * 70_000).status_code == 413
    assert client.post(LOAD.format(NOTES), content=b" " * 70_000).status_code == 413


def test_control_is_off_by_default(tmp_path, empty_home):
    add_model(empty_home, "own.new")
    with TestClient(build(settings(tmp_path)), "http://127.0.0.1") as client:
        for route in (LOAD, UNLOAD):
            answer = client.post(route.format(DEFAULT))
            assert answer.status_code == 403
            assert "--model-control explicit" in answer.json()["error"]
        assert set(states(client)) == {name for name in states(client, ready=True)}
        assert "own.new" not in states(client)  # what clients cannot load is not listed
        assert "model_repository" not in client.get("/v2").json()["extensions"]


def test_key_and_origin_are_checked(tmp_path, empty_home):
    app = build(settings(tmp_path, model_control="explicit", key="secret"))
    with TestClient(app, "http://127.0.0.1") as client:
        assert client.post(UNLOAD.format(DEFAULT)).status_code == 401
        assert client.post(INDEX).status_code == 401
        key = {"X-API-Key": "secret"}
        foreign = client.post(UNLOAD.format(DEFAULT), headers=key | {"Origin": "https://example.org"})
        assert foreign.status_code == 403
        assert client.post(INDEX, headers=key).status_code == 200
        assert client.post(UNLOAD.format(DEFAULT), headers=key).status_code == 200


@pytest.fixture
def repository(tmp_path, empty_home):
    folder = tmp_path / "server"
    folder.mkdir()
    return module.Repository(settings(folder, model_control="explicit"), ProcessSlots(folder / "slots", 1))


def test_limits_on_models(repository, empty_home, monkeypatch):
    add_model(empty_home, "own.new")
    monkeypatch.setattr(module, "MAX_LOADED_BYTES", 100)
    with pytest.raises(module.HTTPError, match="Unload others") as caught:
        asyncio.run(repository.load("own.new"))
    assert caught.value.status == 409
    monkeypatch.undo()
    monkeypatch.setenv("ZOO_HOME", str(empty_home))
    repository.state = module.replace(repository.state, capacity=len(repository.state.names))
    with pytest.raises(module.HTTPError, match="Restart"):
        asyncio.run(repository.load("own.new"))
    asyncio.run(repository.load(DEFAULT))  # a model that has a place already


def test_replaced_models_are_freed(repository):
    """Nothing but requests in progress keeps a replaced model, and few replaced ones may be kept by requests."""
    old = weakref.ref(repository.service.runners[NOTES])

    async def classify(number):
        item = WorkItem(repository.service.runner(NOTES), images=np.zeros((1, 28, 28, 1), np.uint8), output="scores")
        await repository.service.pool.process(item)

    async def use_and_replace():
        repository.service.pool.start()
        await asyncio.gather(*(classify(number) for number in range(20)))
        await repository.load(NOTES)
        await asyncio.sleep(0.1)

    asyncio.run(use_and_replace())
    gc.collect()
    assert old() is None
    held = []
    for _ in range(module.MAX_RETIRED):
        held.append(repository.service.runners[NOTES])
        asyncio.run(repository.load(NOTES))
    with pytest.raises(module.HTTPError, match="replaced models"):
        asyncio.run(repository.load(NOTES))
    gc.disable()  # as seldom as in a server: what remains of requests is in cycles
    try:
        cycle = [held]
        cycle.append(cycle)
        del held, cycle
        asyncio.run(repository.load(NOTES))
    finally:
        gc.enable()
    repository.service.pool.close()


def test_few_changes_wait(repository, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(repository, "_load", lambda name: release.wait(20))

    async def many():
        tasks = [asyncio.ensure_future(repository.load(NOTES)) for _ in range(module.MAX_WAITING + 5)]
        await asyncio.sleep(0.2)
        release.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(many())
    assert [getattr(result, "status", None) for result in results] == [None] * module.MAX_WAITING + [503] * 5


def test_client_that_leaves_does_not_stop_a_load(repository, empty_home):
    add_model(empty_home, "own.new")

    async def leave():
        task = asyncio.ensure_future(repository.load("own.new"))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(20):
            while "own.new" not in repository.service.runners:
                await asyncio.sleep(0.01)

    asyncio.run(leave())


def test_request_is_answered_by_the_model_it_started_with(repository, empty_home):
    labels = [f"digit {number}" for number in range(10)]
    folder = add_model(empty_home, "own.new")
    asyncio.run(repository.load("own.new"))
    item = WorkItem(repository.service.runner("own.new"), [SEVEN])
    shutil.rmtree(folder)
    add_model(empty_home, "own.new", labels=labels)

    async def replace_then_process():
        await repository.load("own.new")
        repository.service.pool.start()
        later = WorkItem(repository.service.runner("own.new"), [SEVEN])
        await asyncio.gather(repository.service.pool.process(item), repository.service.pool.process(later))
        return later

    later = asyncio.run(replace_then_process())
    repository.service.pool.close()
    assert (item.rows[0].label, later.rows[0].label) == ("7", "digit 7")


def test_second_process_takes_over_changes(repository, empty_home, tmp_path):
    """Two repositories of one folder, as two processes have them."""
    add_model(empty_home, "own.new")
    folder = tmp_path / "server"
    other = module.Repository(settings(folder, model_control="explicit"), ProcessSlots(folder / "slots", 1))
    asyncio.run(repository.load("own.new"))
    shutil.rmtree(empty_home / "models" / "own.new")  # the other process opens the copy
    asyncio.run(other.catch_up())
    assert "own.new" in other.service.runners
    kept = other.service.runners[NOTES]
    asyncio.run(other.unload("own.new"))
    asyncio.run(repository.catch_up())
    assert "own.new" not in repository.service.runners
    assert other.service.runners[NOTES] is kept  # models that did not change are not opened again
    late = module.Repository(settings(folder, model_control="explicit"), ProcessSlots(folder / "slots", 1))
    assert set(late.service.runners) == set(repository.service.runners)
    assert late.state == repository.state
    asyncio.run(repository.load(NOTES))
    assert {path.name for path in (folder / "models").iterdir()} == set(repository.state.digests.values())


@pytest.mark.parametrize("control", ["none", "explicit"])
def test_restarted_process_leaves_out_what_it_cannot_open(tmp_path, empty_home, capsys, control):
    """A server process that died is started again; the others must not end because a file is gone meanwhile."""
    folder = add_model(empty_home, "own.new")
    options = settings(tmp_path, models="*n*.n*", model_control=control)
    first = module.Repository(options, ProcessSlots(tmp_path / "slots", 1))
    shutil.rmtree(folder)
    again = module.Repository(options, ProcessSlots(tmp_path / "slots", 1))
    missing = {"none": {"own.new"}, "explicit": set()}[control]
    assert set(again.service.runners) == set(first.service.runners) - missing
    assert again.state == first.state
    for copy in (tmp_path / "models").glob("*"):
        copy.unlink()
    third = module.Repository(options, ProcessSlots(tmp_path / "slots", 1))
    assert (control == "explicit") == (not third.service.runners)
    assert ("own.new" in capsys.readouterr().err) == (control == "none" or not third.service.runners)


def test_late_process_is_reported(repository, monkeypatch):
    monkeypatch.setattr(module, "APPLY_S", 0.1)
    monkeypatch.setattr(repository, "_late", lambda generation=None: [1])
    with pytest.raises(module.HTTPError, match="1 of 1 processes") as caught:
        asyncio.run(repository.load(NOTES))
    assert caught.value.status == 503


def test_statistics_and_metrics_per_model(client):
    def stats(name):
        (entry,) = client.get(f"/v2/models/{name}/stats").json()["model_stats"]
        return entry

    before = stats(NOTES)
    assert before["inference_stats"]["success"] == {"count": 0, "ns": 0}
    for _ in range(3):
        assert predict(client, NOTES).status_code == 200
    assert client.post(f"/models/{NOTES}/predict", content=b"broken", headers=PNG).status_code == 400
    after = stats(NOTES)
    assert after["inference_count"] == 3
    assert after["execution_count"] == 3
    assert after["inference_stats"]["success"]["count"] == 4  # a broken image has a row
    times = {name: entry["ns"] for name, entry in after["inference_stats"].items()}
    parts = times["queue"] + times["compute_input"] + times["compute_infer"] + times["compute_output"]
    assert 0 < parts == pytest.approx(times["success"], rel=1e-6)
    assert abs(after["last_inference"] / 1000 - time.time()) < 60
    assert client.get("/v2/models/stats").json()["model_stats"][0]["name"] == DEFAULT.replace("plus", "notes")
    assert client.get("/v2/models/nothing/stats").status_code == 404
    text = client.get("/metrics").text
    assert f'zoo_model_seconds_count{{model="{NOTES}",stage="total"}} 4.0' in text
    assert f'zoo_model_seconds_bucket{{le="+Inf",model="{NOTES}",stage="queue"}} 4.0' in text
    assert f'model="{DEFAULT}",stage' not in text  # no request yet


def test_labels_of_metrics_are_bounded(repository):
    names = [f"model{number}" for number in range(repository.state.capacity)]
    with pytest.raises(ValueError, match="No place"):
        repository.metrics.add_models(names)
    assert len(repository.metrics.text()) < 200_000


@pytest.mark.parametrize(
    "options",
    [
        ("--host", "0.0.0.0"),
        ("--root-path", "/zoo"),
        ("--allowed-host", "zoo.example.org"),
        ("--cors-origin", "https://example.org"),
    ],
)
def test_explicit_control_where_others_reach_the_server_needs_a_key(options):
    done = zoo("serve", *options, "--port", free_port(), "--model-control", "explicit")
    assert done.returncode == 2
    assert "ZOO_API_KEY" in done.stderr


@pytest.mark.slow
def test_no_request_is_lost_while_models_change(tmp_path, empty_home):
    """Two processes, 8 clients, and a model that is replaced by one with other labels, back and forth."""
    versions = [[f"{letter}{number}" for number in range(10)] for letter in "ab"]
    add_model(empty_home, "own.new", labels=versions[0])
    options = ("--no-demo", "--models", "own.new", "--model-control", "explicit", "--workers", "2")
    with serving(tmp_path, *options, ZOO_HOME=str(empty_home)) as server:
        stop, answers = threading.Event(), []

        def ask(_):
            with httpx.Client(base_url=server.url) as client:
                while not stop.is_set():
                    began, answer = time.monotonic(), predict(client, "own.new")
                    assert answer.status_code == 200, answer.text
                    answers.append((began, time.monotonic(), answer.json()["label"]))

        def wait_for_answer(since):
            """Wait for the answer of a request that was sent after a time."""
            wait_for(lambda: any(sent > since for sent, _, _ in answers) or any(client.done() for client in clients))

        changes = []
        with ThreadPoolExecutor(8) as threads:
            clients = [threads.submit(ask, number) for number in range(8)]
            try:
                for version in (1, 0, 1, 0, 1):
                    wait_for_answer(changes[-1][1] if changes else 0)
                    shutil.rmtree(empty_home / "models" / "own.new")
                    add_model(empty_home, "own.new", labels=versions[version])
                    began = time.monotonic()
                    assert httpx.post(server.url + LOAD.format("own.new")).status_code == 200
                    changes.append((began, time.monotonic(), versions[version][7]))
                wait_for_answer(changes[-1][1])
            finally:
                stop.set()
            for client in clients:
                client.result()  # raises its error
        assert {label for _, _, label in answers} == {"a7", "b7"}
        for _, loaded, label in changes:  # after the response of a load, every process answers with the new model
            until = min([began for began, _, _ in changes if began > loaded], default=float("inf"))
            later = {answer for sent, received, answer in answers if sent > loaded and received < until}
            assert later == {label}
        httpx.post(server.url + UNLOAD.format("own.new"), timeout=60)
        assert {httpx.post(server.url + "/models/own.new/predict", content=SEVEN).status_code for _ in range(20)} == {
            404
        }
        assert httpx.get(server.url + "/v2/health/ready").status_code == 200


@pytest.mark.slow
def test_restarted_process_has_the_loaded_models(tmp_path, empty_home):
    add_model(empty_home, "own.new")
    options = ("--no-demo", "--models", NOTES, "--model-control", "explicit", "--workers", "2")
    with serving(tmp_path, *options, ZOO_HOME=str(empty_home)) as server:
        assert httpx.post(server.url + LOAD.format("own.new"), timeout=60).status_code == 200
        assert httpx.post(server.url + UNLOAD.format(NOTES), timeout=60).status_code == 200
        shutil.rmtree(empty_home / "models" / "own.new")
        os.kill(server.children()[0], signal.SIGKILL)
        time.sleep(0.2)
        wait_for(lambda: server.state("ready"), 60)
        labels = set()
        for _ in range(40):
            answer = httpx.post(server.url + "/models/own.new/predict", content=SEVEN, headers=PNG)
            labels.add((answer.status_code, answer.json().get("label")))
        assert labels == {(200, "7")}
