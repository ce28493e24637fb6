"""gRPC against HTTP: requests/s of the same server, and the processor time that it takes per request.

    python -m bench.grpc_http --rounds 5 --seconds 4

Both transports carry the same Open Inference Protocol request: one array of 784 bytes, or one PNG file of a digit. The
client runs in a process of its own on the same machine, with 32 requests open at a time. So requests/s include what a
client costs; the server's processor time does not. Rounds alternate between the transports. The label of every response
is checked. "constant" is the limit of gRPC for Python: a grpc.aio server that answers every call with the same bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

CONCURRENCY = 32
EXAMPLE = Path(__file__).parents[1] / "examples" / "seven.png"
STARTUP_LINE = re.compile(r"Running on http://(\S+?):(\d+) .*gRPC: (\S+)")


@dataclass(frozen=True)
class Tensor:
    name: str
    datatype: str
    shape: list[int]
    raw: bytes


def tensors() -> dict[str, Tensor]:
    """The two inputs that are compared; both are a seven."""
    import cv2

    from zoo.images.prepare import prepare
    from zoo.registry import find

    file = EXAMPLE.read_bytes()
    pixels, *_ = prepare(file, find("mnist14k").card.input, "crop")
    array = np.asarray(pixels, np.uint8).reshape(1, 28, 28, 1)
    png = cv2.imencode(".png", array[0])[1].tobytes()
    return {
        "array": Tensor("image", "UINT8", [1, 28, 28, 1], array.tobytes()),
        "file": Tensor("encoded", "BYTES", [1], struct.pack("<I", len(png)) + png),
    }


def http_request(tensor: Tensor, host: str) -> bytes:
    entry = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    entry["parameters"] = {"binary_data_size": len(tensor.raw)}  # type: ignore[assignment]
    outputs = [
        {"name": name, "parameters": {"binary_data": True}} for name in ("logits", "probabilities", "label")
    ]  # gRPC's responses are binary too
    head = json.dumps({"inputs": [entry], "outputs": outputs}).encode()
    fields = f"Host: {host}\r\nInference-Header-Content-Length: {len(head)}\r\n"
    length = f"Content-Length: {len(head) + len(tensor.raw)}\r\n\r\n"
    return f"POST /v2/models/mnist14k/infer HTTP/1.1\r\n{fields}{length}".encode() + head + tensor.raw


def grpc_request(tensor: Tensor) -> bytes:
    from tritonclient.grpc import service_pb2

    entry = service_pb2.ModelInferRequest.InferInputTensor(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )
    request = service_pb2.ModelInferRequest(model_name="mnist14k", inputs=[entry], raw_input_contents=[tensor.raw])
    return bytes(request.SerializeToString())


async def load_http(address: str, request: bytes, seconds: float) -> int:
    """Responses within that time."""
    host, port = address.rsplit(":", 1)
    until, count = time.perf_counter() + seconds, 0

    async def client() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert length
            body = await reader.readexactly(int(length[1]))
            assert head.startswith(b"HTTP/1.1 200"), head
            assert body.endswith(b"\x01\x00\x00\x007"), body
            count += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
    return count


async def load_grpc(address: str, request: bytes, seconds: float) -> int:
    """Responses within that time, through one connection."""
    import grpc

    until, count = time.perf_counter() + seconds, 0
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def client() -> None:
            nonlocal count
            while time.perf_counter() < until:
                response = await call(request)
                assert response.endswith(b"\x01\x00\x00\x007"), response
                count += 1

        await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
    return count


def run(protocol: str, address: str, request: bytes, seconds: float) -> int:
    load: Any = {"http": load_http, "grpc": load_grpc}[protocol]
    return int(asyncio.run(load(address, request, seconds)))


def serve_constant(response: bytes, port: Connection) -> None:
    """Answer every call with the same bytes, until the process is terminated."""
    import grpc
    import uvloop

    async def handle(message: bytes, context: Any) -> bytes:
        return response

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(handle)

    async def serve() -> None:
        server = grpc.aio.server(handlers=[Handler()])
        port.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    uvloop.run(serve())


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children so far."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if pid in (int(fields[1]), int(status.parent.name)):
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Per tensor: medians of requests/s and of the server's milliseconds per request, and their ratios to HTTP's."""
    command = [sys.executable, "-m", "serve.cli", "serve", "--port", "0", "--grpc-port", "0", "--no-demo"]
    command += ["--no-access-log", "--models", "mnist14k.plus"]
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    constant = spawn.Process(target=serve_constant, args=(bytes(95) + b"\x01\x00\x00\x007", sender))
    with tempfile.TemporaryFile("w+") as log, ProcessPoolExecutor(1, mp_context=spawn) as clients:
        server = subprocess.Popen(command, stderr=log, stdout=log)
        constant.start()
        try:
            match = None
            while match is None:
                assert server.poll() is None
                time.sleep(0.2)
                log.seek(0)
                match = STARTUP_LINE.search(log.read())
            http = f"{match[1]}:{match[2]}"
            limit, limit_pid = f"127.0.0.1:{receiver.recv()}", constant.pid or 0
            results = []
            for name, tensor in tensors().items():
                message = grpc_request(tensor)
                targets = {
                    "http": (server.pid, "http", http, http_request(tensor, http)),
                    "grpc": (server.pid, "grpc", match[3], message),
                    "constant": (limit_pid, "grpc", limit, message),
                }
                for _, protocol, address, request in targets.values():  # warm up
                    clients.submit(run, protocol, address, request, 1.0).result()
                measured: dict[str, list[tuple[float, float]]] = {transport: [] for transport in targets}
                for _ in range(rounds):
                    for transport, (pid, protocol, address, request) in targets.items():
                        before = cpu_seconds(pid)
                        count = clients.submit(run, protocol, address, request, seconds).result()
                        measured[transport].append((count / seconds, (cpu_seconds(pid) - before) / count * 1e3))
                results.append(_summary(name, measured))
            return results
        finally:
            constant.terminate()
            server.terminate()
            server.wait(30)


def _summary(name: str, measured: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    rates = {transport: [rate for rate, _ in values] for transport, values in measured.items()}
    costs = {transport: [cost for _, cost in values] for transport, values in measured.items()}

    def ratios(values: dict[str, list[float]]) -> dict[str, float]:
        """Medians of the ratios to HTTP in the same round."""
        return {
            transport: round(median(a / b for a, b in zip(values[transport], values["http"], strict=True)), 2)
            for transport in values
            if transport != "http"
        }

    return {
        "tensor": name,
        "requests_per_s": {transport: round(median(values)) for transport, values in rates.items()},
        "server_ms_per_request": {transport: round(median(values), 3) for transport, values in costs.items()},
        "rate_to_http": ratios(rates),
        "server_ms_to_http": ratios(costs),
        "rounds": len(rates["http"]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="gRPC against HTTP on the same server.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    for result in measure(arguments.rounds, arguments.seconds):
        print(json.dumps(result))
