"""Models of the user's folder that come, change and go while a server with the page runs."""

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest

from serve.server.log import LOG
from serve.server.repository import Repository
from serve.service.metrics import ProcessSlots
from serve.service.settings import Settings
from tests.support.paths import add_model
from tests.support.server import serving, wait_for
from zoo import registry

SHIPPED = ["mnist14k.notes", "mnist14k.plus", "mnist14k.plus-int8"]


@pytest.fixture
def home(empty_home):
    (empty_home / "models").mkdir(parents=True, exist_ok=True)
    return empty_home


def repository(folder, **options):
    settings = Settings(**{"models": "m*14k*", "folder": str(folder), "device": "cpu", **options})
    return Repository(settings, ProcessSlots(Path(folder, "slots"), 1))


def follow(repository):
    asyncio.run(repository.follow_folder())
    return list(repository.service.runners)


def test_new_changed_and_removed_models_are_taken_over(tmp_path, home, monkeypatch):
    monkeypatch.setattr("serve.server.repository.FOLLOW_S", 0)
    server = repository(tmp_path)
    assert follow(server) == SHIPPED
    folder = add_model(home, "mine14k.a")
    add_model(home, "other.a")  # --models does not name it
    assert follow(server) == ["mine14k.a", *SHIPPED]
    first = server.service.runner("mine14k.a")
    assert follow(server)
    assert server.service.runner("mine14k.a") is first, "it has not changed"
    shutil.rmtree(folder)
    add_model(home, "mine14k.a", title="a new title")
    follow(server)
    assert server.service.runner("mine14k.a").model.card.title == "a new title"
    shutil.rmtree(folder)
    assert follow(server) == SHIPPED


def test_damaged_model_is_left_out_until_its_file_changes(tmp_path, home, monkeypatch):
    messages = []
    monkeypatch.setattr(LOG, "message", messages.append)
    monkeypatch.setattr("serve.server.repository.FOLLOW_S", 0)
    server = repository(tmp_path)
    file = add_model(home, "mine14k.a") / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])  # as if it were still being copied
    assert follow(server) == follow(server) == SHIPPED
    assert len([message for message in messages if "The model is not served." in message]) == 1
    file.write_bytes(content)
    assert follow(server) == ["mine14k.a", *SHIPPED]


def test_nothing_is_unloaded_while_the_folder_is_away(tmp_path, home, monkeypatch):
    monkeypatch.setattr("serve.server.repository.FOLLOW_S", 0)
    add_model(home, "mine14k.a")
    server = repository(tmp_path)
    (home / "models").rename(home / "away")
    assert follow(server) == ["mine14k.a", *SHIPPED]


@pytest.mark.parametrize("options", [{"demo": False}, {"model_control": "explicit"}], ids=str)
def test_servers_without_page_or_with_model_control_change_nothing(tmp_path, home, options):
    server = repository(tmp_path, **options)
    add_model(home, "mine14k.a")
    assert follow(server) == SHIPPED


def test_folder_is_read_once_for_many_calls(tmp_path, home, monkeypatch):
    server, reads = repository(tmp_path), []
    monkeypatch.setattr(registry, "scan", lambda pattern: reads.append(pattern) or [])

    async def calls():
        await asyncio.gather(*(server.follow_folder() for _ in range(50)))

    asyncio.run(calls())
    assert len(reads) <= 2


@pytest.mark.slow
def test_all_processes_serve_a_new_model(tmp_path, home):
    options = ("--models", "m*14k*", "--workers", "2", "--no-access-log")
    with serving(tmp_path, *options, ZOO_HOME=str(home)) as server, httpx.Client(base_url=server.url) as client:
        add_model(home, "mine14k.a")
        choices = client.post("/gradio_api/queue/join", json=_load_event(client)).json()
        assert "event_id" in choices

        def is_served_by_all():  # connections are spread over the processes
            return all(httpx.get(f"{server.url}/models/mine14k.a").status_code == 200 for _ in range(12))

        wait_for(is_served_by_all)
        assert "Traceback" not in server.log


def _load_event(client):
    """The event that a browser sends when it opens the page."""
    dependencies = client.get("/config").json()["dependencies"]
    event = next(each for each in dependencies if any(kind == "load" for _, kind in each["targets"]))
    return {"fn_index": event["id"], "data": ["mnist14k.plus"] * len(event["inputs"]), "session_hash": "abc"}
