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
    """A session that behaves like one on a GPU.

    - In each thread, the first run with a graph's number captures the graph for one set of addresses, which is slow. A
      replay uses those addresses, whatever is bound.
    - A run returns at once. Scores are there after `synchronize_outputs`; until then they are NaN.
    - The images must not change before that, and a second run must not begin.

    Attributes:
        slow_s: seconds that a capture takes.
        run_s: seconds that each run takes.
        captures: how many graphs were captured.
        runs: the batch size of each run, captures included.
    """

    def __init__(self, model, slow_s=0.05, run_s=0.001):
        self.model, self.slow_s, self.run_s = model, slow_s, run_s
        self.graphs, self.captures, self.runs = {}, 0, []
        self._running = threading.Lock()
        self._failure = None

    def io_binding(self):
        return _Binding(self)

    def run_with_iobinding(self, bound, options):
        assert self._running.acquire(blocking=False), "two runs at a time"
        number = threading.get_ident(), options["gpu_graph_id"]
        if number not in self.graphs:
            time.sleep(self.slow_s)
            self.captures += 1
            self.graphs[number] = dict(bound.arrays)
        arrays = self.graphs[number]
        self.runs.append(len(arrays["image"]))
        for name, values in arrays.items():
            if name != "image":
                values[:] = np.nan
        bound.running = threading.Thread(target=self._compute, args=(arrays,), daemon=True)
        bound.running.start()

    def _compute(self, arrays):
        try:
            before = arrays["image"].copy()
            time.sleep(self.run_s)
            scores = self.model.run(before)._asdict()
            assert np.array_equal(arrays["image"], before), "images were changed while the device read them"
            for name, values in arrays.items():
                if name != "image":
                    values[:] = scores[name]
        except Exception as error:
            self._failure = error

    def finish(self, bound):
        bound.running.join()
        self._running.release()
        failure, self._failure = self._failure, None
        if failure:
            raise failure


class _Binding:
    def __init__(self, gpu):
        self.gpu, self.arrays, self.running = gpu, {}, None

    def bind_input(self, name, device, number, kind, shape, pointer):
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        memory = (ctypes.c_ubyte * size).from_address(pointer)
        self.arrays[name] = np.frombuffer(memory, kind).reshape(shape)
        assert device == "cuda"

    bind_output = bind_input

    def synchronize_outputs(self):
        self.gpu.finish(self)


class ModelOnFakeGpu:
    """A model whose device is "cuda", on a fake GPU."""

    device = "cuda"

    def __init__(self, gpu):
        self._session, self.card = gpu, gpu.model.card


def install(monkeypatch):
    """Replace the CUDA runtime library and the run options, so that `zoo.runtime.Bound` accepts a `FakeGpu`."""
    cudart = FakeCudart()
    monkeypatch.setattr(runtime, "_library", lambda: cudart)
    monkeypatch.setattr(runtime, "run_options", lambda device, graph: {"gpu_graph_id": graph})
