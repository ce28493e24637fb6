"""A GPU for tests: sessions and memory with the habits of a real one, and the CPU as its arithmetic."""

import ctypes
import threading
import time

import numpy as np

from zoo import runtime


class FakeCudart:
    """malloc and free instead of the CUDA runtime; records the allocated memory."""

    def __init__(self, fails=False):
        self.fails, self.live = fails, {}

    def cudaHostAlloc(self, pointer, size, flags):
        assert flags == 3
        if self.fails:
            return 2
        memory = ctypes.create_string_buffer(b"\xff" * size.value, size.value)
        address = ctypes.addressof(memory)
        self.live[address] = memory
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_void_p))[0] = address
        return 0

    def cudaFreeHost(self, pointer):
        del self.live[pointer.value]
        return 0

    def cudaPointerGetAttributes(self, attributes, pointer):
        ctypes.cast(attributes, ctypes.POINTER(ctypes.c_int))[0] = 1 if pointer.value in self.live else 0
        return 0


class FakeGpu:
    """The device: at most one run at a time, in all of its sessions.

    Attributes:
        model: does the arithmetic, on the CPU.
        slow_s: seconds that a capture takes.
        run_s: seconds that each run takes.
        captures: how many graphs were captured.
        runs: the batch size of each run, captures included.
    """

    def __init__(self, model, slow_s=0.05, run_s=0.001):
        self.model, self.slow_s, self.run_s = model, slow_s, run_s
        self.captures, self.runs = 0, []
        self.running = threading.Lock()


class FakeSession:
    """A session with CUDA graphs that behaves like one of onnxruntime.

    - In each thread, the first run captures the graph for one set of addresses, which is slow. A replay uses those
      addresses, whatever is bound.
    - After a capture of more images than before, replays of the session's earlier graphs fail.
    - A run returns at once. Scores are there after `synchronize_outputs`; until then they are NaN.
    - The images must not change before that, and a second run must not begin.
    """

    def __init__(self, gpu):
        self.gpu, self.graphs, self._largest = gpu, {}, 0
        self._failure = None

    def io_binding(self):
        return _Binding(self)

    def run_with_iobinding(self, bound):
        assert self.gpu.running.acquire(blocking=False), "two runs at a time"
        key = threading.get_ident(), len(bound.arrays["image"])
        if key not in self.graphs:
            time.sleep(self.gpu.slow_s)
            self.gpu.captures += 1
            if key[1] > self._largest:
                self._largest = key[1]
                self.graphs = dict.fromkeys(self.graphs)
            self.graphs[key] = dict(bound.arrays)
        arrays = self.graphs[key]
        if arrays is None:
            self.gpu.running.release()
            raise RuntimeError("CUDA failure 715: an illegal instruction was encountered")
        self.gpu.runs.append(len(arrays["image"]))
        for name, values in arrays.items():
            if name != "image":
                values[:] = np.nan
        bound.running = threading.Thread(target=self._compute, args=(arrays,), daemon=True)
        bound.running.start()

    def _compute(self, arrays):
        try:
            before = arrays["image"].copy()
            time.sleep(self.gpu.run_s)
            scores = self.gpu.model.run(before)._asdict()
            assert np.array_equal(arrays["image"], before), "images were changed while the device read them"
            for name, values in arrays.items():
                if name != "image":
                    values[:] = scores[name]
        except Exception as error:
            self._failure = error

    def finish(self, bound):
        bound.running.join()
        self.gpu.running.release()
        failure, self._failure = self._failure, None
        if failure:
            raise failure


class _Binding:
    def __init__(self, session):
        self.session, self.arrays, self.running = session, {}, None

    def bind_input(self, name, device, number, kind, shape, pointer):
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        memory = (ctypes.c_ubyte * size).from_address(pointer)
        self.arrays[name] = np.frombuffer(memory, kind).reshape(shape)
        assert device == "cuda"

    bind_output = bind_input

    def synchronize_outputs(self):
        self.session.finish(self)


class ModelOnFakeGpu:
    """A model whose device is "cuda", on a fake GPU."""

    device = "cuda"

    def __init__(self, gpu):
        self._gpu, self.card = gpu, gpu.model.card

    def _session_with_graph(self):
        return FakeSession(self._gpu)


def install(monkeypatch):
    """Replace the CUDA runtime library, so that `zoo.runtime.Bound` accepts a `FakeSession`."""
    cudart = FakeCudart()
    monkeypatch.setattr(runtime, "_library", lambda: cudart)
