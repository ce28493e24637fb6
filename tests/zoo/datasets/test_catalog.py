"""Every layout gives the published arrays, and other data are refused in one sentence."""

import gzip
import pickle
import struct
import sys

import numpy as np
import pytest

from zoo.datasets import catalog as datasets
from zoo.datasets.catalog import DATASETS, load
from zoo.datasets.readers import read_cifar_batches, read_idx
from zoo.errors import BadData, DataNotFound


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("split", datasets.SPLITS)
def test_parquet_gives_the_published_arrays(data_folder, name, split):
    data = load(name, split, data_folder)
    info = DATASETS[name]
    assert data.images.shape == (info.images[split], *info.image_shape)
    assert data.images.dtype == data.labels.dtype == np.uint8
    assert np.bincount(data.labels).shape == (len(info.labels),)
    assert datasets.digests(info, data.images, data.labels) == info.digests[split]


@pytest.mark.parametrize("endings", [("",), (".gz",), ("", ".gz")], ids=["extracted", "gz", "both"])
def test_torchvisions_mnist_folder(mnist_test, tmp_path, endings, empty_home):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, magic, array in (
        ("t10k-images-idx3-ubyte", 0x803, mnist_test.images[..., 0]),
        ("t10k-labels-idx1-ubyte", 0x801, mnist_test.labels),
    ):
        content = struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()
        for ending in endings:  # torchvision keeps the .gz that it extracted
            path = raw / (name + ending)
            path.write_bytes(gzip.compress(content, 1) if ending else content)
    for folder in (tmp_path, tmp_path / "MNIST", raw):
        np.testing.assert_array_equal(load("mnist", "test", folder).images, mnist_test.images)
    path = raw / (name + endings[0])
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:40] + b"garbage" + whole[47:] if endings[0] else whole[:3] + whole[4:]):
        path.write_bytes(damaged)
        with pytest.raises(BadData, match="damaged"):
            load("mnist", "test", tmp_path)


def test_torchvisions_cifar_batches(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    paths = []
    for number in range(2):
        part = images[3 * number : 3 * number + 3]
        batch = {b"data": part.transpose(0, 3, 1, 2).reshape(3, -1), b"labels": [number, 2, 3]}
        paths.append(tmp_path / f"data_batch_{number}")
        paths[-1].write_bytes(pickle.dumps(batch, protocol=2))
    read, labels = read_cifar_batches(paths)
    np.testing.assert_array_equal(read, images)
    assert labels.tolist() == [0, 2, 3, 1, 2, 3]


class Evil:
    def __reduce__(self):
        return exec, ("print('this ran')",)


def test_pickle_with_other_classes_is_refused(tmp_path, capsys):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))
    with pytest.raises(BadData, match=r"builtins\.exec"):
        read_cifar_batches([path])
    assert capsys.readouterr().out == ""


def test_other_images_are_refused(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 2, 28, 28) + bytes(2 * 784))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 2) + bytes(2))
    assert read_idx(raw / "t10k-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte")[0].shape == (2, 28, 28, 1)
    with pytest.raises(BadData, match="not the published MNIST test set"):
        load("mnist", "test", tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", b"PAR1" + bytes(500) + b"PAR1"])
def test_damaged_parquet_file_is_bad_data(tmp_path, content):
    path = tmp_path / "mnist" / "test-00000-of-00001.parquet"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(BadData, match="damaged") as caught:
        load("mnist", "test", tmp_path)
    assert "\n" not in str(caught.value)


def test_truncated_parquet_file_is_bad_data(data_folder, tmp_path):
    path = tmp_path / "mnist" / "test-00000-of-00001.parquet"
    path.parent.mkdir()
    path.write_bytes((data_folder / "ylecun/mnist/mnist/test-00000-of-00001.parquet").read_bytes()[:-1000])
    with pytest.raises(BadData, match="damaged"):
        load("mnist", "test", tmp_path)


def test_parquet_without_pyarrow_is_data_not_found(tmp_path, monkeypatch):
    path = tmp_path / "mnist" / "test-00000-of-00001.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataNotFound, match=r"pocketzoo\[data\]"):
        load("mnist", "test", tmp_path)


def test_empty_folder_error_names_expected_files(tmp_path):
    with pytest.raises(BadData, match="MNIST/raw/t10k-images-idx3-ubyte"):
        load("mnist", "test", tmp_path)


def test_unknown_data_set_is_bad_data():
    with pytest.raises(BadData, match="data set 'fashion': choose mnist or cifar10"):
        load("fashion", "test")


def test_no_download_without_permission(monkeypatch, empty_home):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    with pytest.raises(BadData, match="set ZOO_DATA"):
        load("mnist", "test", download=False)


def test_failed_download_is_data_not_found(monkeypatch, empty_home):
    import huggingface_hub

    def refuse(*args, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(BadData, match=r"could not be downloaded .*\(no route\)"):
        load("mnist", "test")


def test_hub_download_uses_the_layouts_file(monkeypatch, data_folder, empty_home):
    import huggingface_hub

    def fetch(repository, name, repo_type):
        assert repo_type == "dataset"
        return str(data_folder / repository / name)

    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert len(load("mnist", "test").labels) == 10_000


def test_cache_is_used_and_checked(data_folder, monkeypatch, empty_home):
    monkeypatch.setenv("ZOO_DATA", str(data_folder))
    first = load("mnist", "test")
    kept = empty_home / "data" / "mnist-test-images.npy"
    assert kept.exists()
    monkeypatch.delenv("ZOO_DATA")
    np.testing.assert_array_equal(load("mnist", "test", download=False).images, first.images)
    damaged = bytearray(kept.read_bytes())
    damaged[5000] ^= 1
    kept.write_bytes(damaged)
    with pytest.raises(BadData, match="set ZOO_DATA"):
        load("mnist", "test", download=False)
