"""The Hugging Face Space: its front matter is complete, and its file starts the page under the Space's host name."""

import re

import httpx
import pytest

from tests.support.paths import REPOSITORY
from tests.support.server import serving

SPACE = REPOSITORY / "examples" / "space"
HOST = "someone-pocketzoo.hf.space"


def test_front_matter():
    yaml = pytest.importorskip("yaml")
    _, front, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    settings = yaml.safe_load(front)
    assert settings["sdk"] == "gradio"
    assert (SPACE / settings["app_file"]).is_file()
    assert settings["colorFrom"] in (colours := "red yellow green blue indigo purple pink gray".split())
    assert settings["colorTo"] in colours
    assert len(settings["short_description"]) <= 60
    assert settings["title"]
    assert settings["emoji"]
    bounds = re.search(r'"gradio>=([0-9.]+),<([0-9]+)"', (REPOSITORY / "pyproject.toml").read_text())
    chosen = [int(part) for part in settings["sdk_version"].split(".")]
    assert [int(part) for part in bounds[1].split(".")] <= chosen < [int(bounds[2])]
    python = re.search(r'requires-python = ">=3\.(\d+)"', (REPOSITORY / "pyproject.toml").read_text())
    assert int(settings["python_version"].split(".")[1]) >= int(python[1])


@pytest.mark.slow
def test_space_serves_the_page(tmp_path):
    pytest.importorskip("gradio")
    environment = {"ZOO_HOST": "127.0.0.1", "ZOO_PORT": "0", "SPACE_HOST": HOST}
    with serving(tmp_path, program=SPACE / "app.py", **environment) as server:
        page = httpx.get(server.url, headers={"Host": HOST, "X-Forwarded-Proto": "https"})
        assert page.status_code == 200
        assert "pocketzoo" in page.text
        policy = page.headers["content-security-policy"]
        assert policy.endswith("frame-ancestors 'self' https://huggingface.co")
        assert httpx.get(server.url, headers={"Host": "evil.example"}).status_code == 421
        image = (REPOSITORY / "examples" / "seven.png").read_bytes()
        headers = {"Host": HOST, "Origin": f"https://{HOST}"}
        reply = httpx.post(f"{server.url}/models/mnist14k/predict", content=image, headers=headers)
        assert reply.json()["label"] == "7"
        foreign = headers | {"Origin": "https://huggingface.co"}  # it may show the page, and not use the API
        assert httpx.post(f"{server.url}/models/mnist14k/predict", content=image, headers=foreign).status_code == 403


def test_page_is_framed_by_named_sites_only(tmp_path):
    from serve.server.origins import OriginPolicy
    from serve.service.settings import Settings
    from zoo.errors import WrongUsage

    OriginPolicy(Settings(frame_ancestors=("https://a.example", "http://b.example:81")))
    for value in ("*", "a.example", "https://a.example; script-src *", "https://a.example https://b.example", ""):
        with pytest.raises(WrongUsage, match="--frame-ancestor"):
            OriginPolicy(Settings(frame_ancestors=(value,)))
