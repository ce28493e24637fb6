"""The servers that `bench/test_serve.py` compares with `zoo serve`: the same model behind FastAPI and behind LitServe.

`uvicorn bench.peer_servers:app` is what one writes first: FastAPI, Pillow and a session in the handler.
`granian --interface asginl bench.peer_servers:constant` sends a constant: the limit of the HTTP server.
`python -m bench.peer_servers PORT` is LitServe with one worker; its package is in the extra `peers`.
"""

import io
import sys
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Request
from PIL import Image

from bench.runtimes import bare_session
from serve.service.asgi import Message, Receive, Send
from zoo import registry

try:
    import litserve
except ImportError:
    litserve = None


@cache
def session() -> Any:
    return bare_session(registry.find("mnist14k"))


def pixels(content: bytes) -> npt.NDArray[np.uint8]:
    """uint8 `(1, H, W, 1)`"""
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"))[np.newaxis, ..., np.newaxis]


app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    probabilities = session().run(None, {"image": pixels(await request.body())})[1][0]
    order = probabilities.argsort()[::-1][:3]
    top_k = [{"label": str(index), "probability": float(probabilities[index])} for index in order]
    return {"label": top_k[0]["label"], "probability": top_k[0]["probability"], "top_k": top_k}


@app.get("/v2/health/ready")
async def ready() -> dict[str, bool]:
    session()
    return {"ready": True}


CONSTANT = b'{"label":"7","probability":1.0,"unsure":false,"top_k":[],"corrections":[],"error":null}'


async def constant(scope: Message, receive: Receive, send: Send) -> None:
    """An ASGI application that does nothing but HTTP."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(CONSTANT))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": CONSTANT})


if litserve:

    class Digits(litserve.LitAPI):  # type: ignore[misc]  # at module level, because LitServe's worker processes unpickle it
        """An image file as a form field, as in LitServe's own examples."""

        def setup(self, device: str) -> None:
            session()

        def decode_request(self, request: litserve.Request) -> npt.NDArray[np.uint8]:  # LitServe reads the annotation
            return pixels(request["file"].file.read())

        def predict(self, images: npt.NDArray[np.uint8]) -> Any:
            return session().run(None, {"image": images})[1][0]

        def encode_response(self, probabilities):  # type: ignore[no-untyped-def]  # FastAPI would validate a type
            return {"label": str(int(probabilities.argmax()))}


if __name__ == "__main__":
    litserve.LitServer(Digits(), accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error"
    )
