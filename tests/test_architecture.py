"""The tree's promises: one-way imports, heavy packages in the one file that may have them."""

import ast
import sys

import pytest

from tests.made_up import REPOSITORY

MAY_IMPORT_OURS = {
    "zoo": {"zoo"},
    "serve": {"serve", "zoo"},
    "train": {"train", "zoo"},
    "bench": {"bench", "serve", "train", "zoo"},
}
MAY_IMPORT = {
    "zoo": {"numpy", "PIL", "cv2", "onnxruntime", "pyarrow", "huggingface_hub", "onnx"},
    "serve": {
        "click",
        "cv2",
        "fastapi",
        "fastapi_offline",
        "gradio",
        "granian",
        "httpx",
        "numpy",
        "orjson",
        "prometheus_client",
        "pyarrow",
        "python_multipart",
        "rich",
        "starlette",
        "urllib3",
    },
    "train": {
        "cv2",
        "torch",
        "torchvision",
        "numpy",
        "safetensors",
        "onnx",
        "onnxruntime",
        "click",
        "rich",
        "matplotlib",
        "scipy",
    },
    "bench": {
        "numpy",
        "cv2",
        "pytest",
        "onnxruntime",
        "onnx",
        "mlxtend",
        "skimage",
        "torch",
        "torchvision",
        "safetensors",
        "PIL",
        "fastapi",
        "litserve",
        "click",
        "matplotlib",
        "mlperf_loadgen",
        "pyarrow",
    },
}
ONLY_IN = {  # package → the files of zoo/ and serve/ that may import it, inside a function
    "onnxruntime": {"zoo/runtime.py"},
    "pyarrow": {
        "zoo/dataset_files.py",
        "serve/parquet_reader.py",
        "serve/encodings.py",
        "serve/parts.py",
        "serve/demo/batches.py",
    },
    "fastapi": {"serve/http/app.py"},
    "fastapi_offline": {"serve/http/app.py"},
    "granian": {"serve/serving.py", "serve/http/relay.py"},
    "httpx": {"serve/http/relay.py"},
    "prometheus_client": {"serve/http/metrics.py"},
    "huggingface_hub": {"zoo/datasets.py"},
    "onnx": {"zoo/layers.py", "zoo/inspect.py"},
    "matplotlib": set(),
    "rich": {"serve/progress.py"},
}


def files(folder):
    return sorted(path for path in (REPOSITORY / folder).rglob("*.py"))


def imports(path, toplevel_only=False):
    """The modules that a file imports, by their full names."""
    tree = ast.parse(path.read_text())
    type_checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    nodes = tree.body if toplevel_only else ast.walk(tree)
    for node in nodes:
        if id(node) in type_checking:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if (node.module or "") in MAY_IMPORT_OURS)


@pytest.mark.parametrize("folder", MAY_IMPORT_OURS)
def test_folders_import_one_way_and_only_what_they_may(folder):
    ours = set(MAY_IMPORT_OURS)
    for path in files(folder):
        for module in imports(path):
            top = module.split(".")[0]
            if top in ours:
                assert top in MAY_IMPORT_OURS[folder], f"{path} imports {module}"
            elif top not in sys.stdlib_module_names:
                assert top in MAY_IMPORT[folder], f"{path} imports {module}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_heavy_packages_are_imported_lazily_and_in_one_place(package):
    for folder in ("zoo", "serve"):
        for path in files(folder):
            name = str(path.relative_to(REPOSITORY))
            tops = {module.split(".")[0] for module in imports(path)}
            assert package not in tops or name in ONLY_IN[package], f"{name} imports {package}"
            at_top = {module.split(".")[0] for module in imports(path, toplevel_only=True)}
            assert package not in at_top, f"{name} imports {package} at its top"


def test_no_module_imports_itself_through_others():
    graph = {}
    for folder in MAY_IMPORT_OURS:
        for path in files(folder):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            found = imports(path, toplevel_only=True)
            graph[name] = {module for module in found if module.split(".")[0] in MAY_IMPORT_OURS}

    def reach(name, trail):
        assert name not in trail, f"import cycle: {' → '.join([*trail, name])}"
        for other in graph.get(name, ()):
            reach(other, [*trail, name])

    for name in graph:
        reach(name, [])


def test_nothing_is_ever_unpickled_but_cifars_arrays():
    for folder in MAY_IMPORT_OURS:
        for path in files(folder):
            if path.name != "dataset_files.py":
                assert "pickle" not in set(imports(path)), path
                assert "torch.load" not in path.read_text(), path
