"""Folders of servers that were killed."""

import errno
import os
import sys

import httpx
import pytest

from serve.cli.folder import PREFIX, remove_abandoned, server_folder
from tests.support.paths import REPOSITORY
from tests.support.server import serving, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders are locked by the functions of Unix")


def folders_in(parent):
    return sorted(folder.name for folder in parent.glob(f"{PREFIX}*"))


def test_folder_of_a_running_server_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with server_folder() as first, server_folder() as second:
        assert first != second
        remove_abandoned(tmp_path)
        assert len(folders_in(tmp_path)) == 2
    assert folders_in(tmp_path) == []


def test_abandoned_folders_are_removed_and_nothing_else(tmp_path):
    abandoned, starting, elsewhere = tmp_path / f"{PREFIX}killed", tmp_path / f".{PREFIX}new", tmp_path / "elsewhere"
    for folder in (abandoned, starting, elsewhere):
        folder.mkdir()
        (folder / "upload.png").write_bytes(b"x")
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
    (tmp_path / f"{PREFIX}file").touch()
    remove_abandoned(tmp_path)
    assert folders_in(tmp_path) == [f"{PREFIX}file", f"{PREFIX}link"]
    assert os.listdir(elsewhere) == os.listdir(starting) == ["upload.png"]


def test_file_system_without_locks(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("fcntl.flock", fail)
    with server_folder():
        with server_folder():
            assert len(folders_in(tmp_path)) == 2
        assert len(folders_in(tmp_path)) == 1


@pytest.mark.slow
def test_next_server_removes_uploads_of_a_killed_one(tmp_path):
    logs = [tmp_path / name for name in ("killed", "running", "next")]
    temporary = tmp_path / "temporary"
    for folder in (*logs, temporary):
        folder.mkdir()
    options = {"TMPDIR": str(temporary)}
    with serving(logs[0], "--models", "mnist14k.plus", **options) as killed:
        content = (REPOSITORY / "examples" / "seven.png").read_bytes()
        upload = {"files": ("seven.png", content)}
        assert httpx.post(killed.url + "/gradio_api/upload", files=upload).status_code == 200
        killed.process.kill()
        killed.process.wait(10)
        wait_for(lambda: killed.state() is None)
    (abandoned,) = folders_in(temporary)
    assert content in [path.read_bytes() for path in temporary.rglob("*.png")]
    with serving(logs[1], "--models", "mnist14k.plus", **options):
        (running,) = folders_in(temporary)
        assert running != abandoned
        with serving(logs[2], "--models", "mnist14k.plus", **options):
            assert len(folders_in(temporary)) == 2
            assert running in folders_in(temporary)
    assert folders_in(temporary) == []
