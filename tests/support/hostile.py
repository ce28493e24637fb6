"""Hostile cards and ONNX files, made from good ones with a seed. Nothing here is a test."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.paths import CARD
from zoo import registry
from zoo.model_files import METADATA_KEY

GOOD_CARD = json.loads(CARD.to_json())
GOOD_ONNX = (registry.find(CARD.name).folder / "model.onnx").read_bytes()

# Values that no field expects; some are written as text, for JSON that Python would not write.
VALUES = [
    None, True, False, "", "yes", "x" * 20_000, "\x1b[31mred", "a\nb", "\u202egnp", "\ud800", "../../x", "/etc/passwd",
    0, -1, 1, 2**63, 10**30, 0.5, -0.5, 1e308, [], [None], ["a", "a"], {}, {"a": 1}, [[0] * 5] * 5,
]  # fmt: skip
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 100_000, '{"a":' * 100_000, "'", "\x00", '"\\ud800"']


def paths(value: Any, start: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every member of a JSON value, of lists to the first alone."""
    yield start
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*start, key))
    elif isinstance(value, list) and value:
        yield from paths(value[0], (*start, 0))


def changed(card: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at the end of a path; `...` takes the member away."""
    if not path:
        return value
    whole = copy.deepcopy(card)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return whole


def cards() -> Iterator[str]:
    """Cards with one field of a wrong type, out of its range, missing, doubled or unknown, and texts that are none."""
    for path in paths(GOOD_CARD):
        for value in (*VALUES, *([...] if path else [])):
            yield json.dumps(changed(GOOD_CARD, path, value))
        text = json.dumps(changed(GOOD_CARD, path, "HERE"))
        for raw in RAW:
            yield text.replace('"HERE"', raw)
        if path and isinstance(path[-1], str):
            yield text.replace(f'"{path[-1]}": "HERE"', f'"{path[-1]}": "HERE", "{path[-1]}": "HERE"')
    whole = json.dumps(GOOD_CARD)
    yield from ("", "\ufeff" + whole, whole + "x", whole[:-1], whole.replace('"name"', '"surprise": 1, "name"', 1))
    yield from (json.dumps([GOOD_CARD]), json.dumps(changed(GOOD_CARD, ("title",), "x" * 2**21)), "{" * 10**6)


def with_card(text: str, content: bytes = GOOD_ONNX) -> bytes:
    """The good network with another card inside."""
    model = onnx.load_model_from_string(content)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = text
    return model.SerializeToString()


def flipped(count: int, seed: int = 0) -> Iterator[bytes]:
    """Truncated files, and files with bytes changed, most of them in the first kilobytes, where the graph lies."""
    generator = random.Random(seed)
    for _ in range(count):
        content = bytearray(GOOD_ONNX)
        if generator.random() < 0.2:
            content = content[: generator.randrange(len(content))]
        for _ in range(generator.choice([0, 1, 1, 3, 30]) if len(content) else 0):
            reach = generator.choice([200, 4_000, len(content)])
            content[generator.randrange(min(reach, len(content)))] = generator.randrange(256)
        yield bytes(content)


def network(
    nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], shape: tuple[Any, ...] = ("N", 28, 28, 1),
    outputs: tuple[Any, ...] = ("N", 10), classes: int = 10, functions: tuple[onnx.FunctionProto, ...] = (),
) -> onnx.ModelProto:  # fmt: skip
    """A model of our form with the good card, whose logits are the mean pixel plus the value `extra` of `nodes`."""
    first = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "flat_shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["scores"]),
    ]
    last = [
        helper.make_node("Add", ["scores", "extra"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([-1, 784], np.int64), "flat_shape"),
        numpy_helper.from_array(np.full((784, classes), 1 / 784, np.float32), "matrix"),
    ]
    graph = helper.make_graph(
        [*first, *nodes, *last], "hostile",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, outputs) for name in ("logits", "probabilities")],
        [*constants, *weights],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))
    entry = model.metadata_props.add()
    card = changed(changed(GOOD_CARD, ("calibration", "known_from"), None), ("known",), None)
    entry.key, entry.value = METADATA_KEY, json.dumps(card)
    return model


def scalar(name: str, value: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, dtype), name)


def external(location: str) -> onnx.TensorProto:
    """A float tensor `extra` of one value, which lies in another file."""
    tensor = TensorProto(name="extra", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def with_external_data(location: str) -> dict[str, onnx.ModelProto]:
    """Models that name another file, in every place where ONNX allows it."""
    tensor = external(location)
    sparse = helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.array([0], np.int64), "places"), [1])
    plain, reading = scalar("extra", [0]), helper.make_node("Constant", [], ["extra"], value=tensor)
    in_sparse = network([], [])
    in_sparse.graph.sparse_initializer.append(sparse)
    branch = helper.make_graph(
        [reading], "branch", [], [helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1])]
    )
    inside = helper.make_node("If", ["always"], ["extra"], then_branch=branch, else_branch=branch)
    function = helper.make_function("own", "Read", [], ["extra"], [reading], [helper.make_opsetid("", 18)])
    listed = network([], [plain])
    attribute = listed.graph.node[0].attribute.add()
    attribute.name, attribute.type = "values", onnx.AttributeProto.TENSORS
    attribute.tensors.append(tensor)
    undeclared = network([], [external(location)])
    undeclared.graph.initializer[-1].ClearField("data_location")
    trained = network([], [plain])
    trained.training_info.add().initialization.initializer.append(tensor)
    return {
        "initializer": network([], [tensor]),
        "without data_location": undeclared,
        "sparse initializer": in_sparse,
        "constant": network([reading], []),
        "sparse constant": network([helper.make_node("Constant", [], ["extra"], sparse_value=sparse)], []),
        "list of tensors": listed,
        "subgraph": network([inside], [scalar("always", True, np.bool_)]),
        "function": network([helper.make_node("Read", [], ["extra"], domain="own")], [], functions=(function,)),
        "training graph": trained,
    }


def endless() -> dict[str, onnx.ModelProto]:
    """Models that loop for ever, or that grow without end while they are opened."""
    scalars = [("i", TensorProto.INT64), ("go", TensorProto.BOOL), ("value", TensorProto.FLOAT)]
    inputs = [helper.make_tensor_value_info(name, kind, []) for name, kind in scalars]
    results = [helper.make_tensor_value_info(f"{name}_next", kind, []) for name, kind in scalars[1:]]
    steps = [helper.make_node("Identity", [name], [f"{name}_next"]) for name in ("go", "value")]
    body = helper.make_graph(steps, "body", inputs, results)
    loop = helper.make_node("Loop", ["times", "always", "start"], ["extra"], body=body)
    weights = [scalar("times", 10**15, np.int64), scalar("always", True, np.bool_), scalar("start", 0)]
    functions, imports = [], [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    for depth in range(30):  # every function calls the one before it twice
        inner = [("Identity", "")] * 2 if depth == 0 else [(f"f{depth - 1}", "own")] * 2
        calls = [
            helper.make_node(name, [start], [end], domain=domain)
            for (name, domain), start, end in zip(inner, "ab", "bc", strict=True)
        ]
        functions.append(helper.make_function("own", f"f{depth}", ["a"], ["c"], calls, imports))
    call = helper.make_node("f29", ["start"], ["extra"], domain="own")
    return {
        "loop": network([loop], weights),
        "functions": network([call], [scalar("start", 0)], functions=tuple(functions)),
    }


def contradicting() -> dict[str, bytes]:
    """Networks that are not what their card says."""
    zero = [scalar("extra", 0)]
    nine = network([], zero, outputs=("N", 9), classes=9)
    different = network([helper.make_node("Unique", ["flat"], ["extra"])], [], outputs=("N", "K"), classes=1)
    twice = network([], zero)
    twice.metadata_props.add().CopyFrom(twice.metadata_props[0])
    latin = network([], zero).SerializeToString().replace(b"MNIST", b"MN\xff\xfeT")
    grown = network([], [numpy_helper.from_array(np.zeros((3, 1), np.float32), "extra")])
    names = network([], zero)
    names.graph.node[0].name = names.graph.node[0].doc_string = "\x1b[31mred"
    foreign = network([helper.make_node("Evil\x1b[31m", ["scores"], ["extra"], domain="own")], [])
    return {
        "nine outputs": nine.SerializeToString(),
        "any number of outputs": different.SerializeToString(),
        "one picture only": network([], zero, shape=(1, 28, 28, 1), outputs=(1, 10)).SerializeToString(),
        "outputs without N": network([], zero, outputs=(5, 10)).SerializeToString(),
        "input without a shape": network([], zero, shape=(None,) * 4).SerializeToString(),
        "two cards": twice.SerializeToString(),
        "card not utf-8": latin,
        "another shape when run": grown.SerializeToString(),
        "not a number": network([], [scalar("extra", np.nan)]).SerializeToString(),
        "infinite": network([], [scalar("extra", np.inf)]).SerializeToString(),
        "names with escapes": names.SerializeToString(),
        "operator of nobody": foreign.SerializeToString(),
        "huge tensor": network(
            [helper.make_node("ConstantOfShape", ["size"], ["big"]), helper.make_node("ReduceMax", ["big"], ["extra"])],
            [numpy_helper.from_array(np.array([10**14], np.int64), "size")],
        ).SerializeToString(),
        "no graph": onnx.ModelProto(ir_version=8).SerializeToString(),
        "nothing": b"",
        "groups": b"\x3b" * 100,
        "endless number": b"\xff" * 100,
        "ORT format": b"\x00\x00\x00\x00ORTM" + bytes(100),
        "many fields": b"\x08\x08" * 600_000,
    }
