"""What our own code costs beside the session: `Model.run` against a bare `session.run` of the same file.

pytest bench/test_overhead.py --benchmark-only
"""

import onnxruntime

from bench.measure import in_turn
from zoo import registry


def test_run_beside_a_bare_session(benchmark, model, ready_array):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = (registry.find("mnist14k").folder / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed = {"image": ready_array}

    pair = in_turn(lambda: model.run(ready_array), lambda: session.run(None, feed), n=3000)
    benchmark.extra_info |= {
        "scope": "one ready array to scores", "model": model.card.name, "batch": 1, "threads": 1,
        "provider": session.get_providers()[0], **pair.info("run", "bare_session_run"),
    }  # fmt: skip
    scores = benchmark(model.run, ready_array)
    assert scores.probabilities.argmax() == 7
    assert pair.ratio <= 1.10
