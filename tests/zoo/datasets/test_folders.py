"""Labelled folders, tables and zips, and what is refused."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from zoo.datasets.folders import labelled_images, mapped
from zoo.errors import BadData, BadInput, WrongUsage
from zoo.images.read import decode


def picture(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for label in ("cat", "dog"):
        for number in range(3):
            picture(tmp_path / "set" / label / f"{number}.png", number)
    return tmp_path / "set"


def labels_of(found):
    return sorted(item.label for item in found.items)


def test_folders_are_classes(folder):
    picture(folder / ".cache" / "x.png")
    (folder / "cat" / "readme.txt").write_text("no image")
    found = labelled_images(folder)
    assert found.labels == ("cat", "dog")
    assert labels_of(found) == ["cat"] * 3 + ["dog"] * 3
    assert found.hidden == (".cache",)
    assert found.other_files == 1
    assert {item.split for item in found.items} == {None}


def test_number_labels_are_sorted_by_value(tmp_path):
    for label in ("10", "9", "2"):
        picture(tmp_path / label / "a.png")
    assert labelled_images(tmp_path).labels == ("2", "9", "10")


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "testing")])
def test_split_folders(tmp_path, names):
    for name in names:
        picture(tmp_path / name / "cat" / "0.png")
        picture(tmp_path / name / "dog" / "0.png")
    found = labelled_images(tmp_path)
    assert found.labels == ("cat", "dog")
    assert sorted(item.split for item in found.items) == ["test"] * 2 + ["train"] * 2 + ["validation"] * 2


def test_zip_of_a_folder_gives_the_same_labels(folder, tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
        archive.writestr("__MACOSX/set/cat/._0.png", b"x")
    found = labelled_images(path)
    assert labels_of(found) == labels_of(labelled_images(folder))
    assert found.hidden == ("__MACOSX",)
    assert decode(found.items[0].read()).pixels.shape == (8, 8, 1)


@pytest.mark.parametrize("text", ["path,label\ncat/0.png,cat\ndog/1.png,dog\n", "cat/0.png;cat\ndog/1.png;dog\n",
                                  "id\tFile_Name\tClass\n1\tcat/0.png\tcat\n2\tdog/1.png\tdog\n"])  # fmt: skip
def test_csv(folder, text):
    (folder / "labels.csv").write_text(text)
    found = labelled_images(folder / "labels.csv")
    assert [(item.label, decode(item.read()).pixels[0, 0, 0]) for item in found.items] == [("cat", 0), ("dog", 1)]


def test_csv_in_a_folder_of_loose_images(tmp_path):
    for number in range(2):
        picture(tmp_path / "images" / f"{number}.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\nimages/0.png,a\nimages/1.png,b\n")
    assert labelled_images(tmp_path).labels == ("a", "b")


def test_csv_that_points_nowhere(folder):
    (folder / "labels.csv").write_text("path,label\nnothing.png,cat\n")
    with pytest.raises(BadData, match=r"None of the 1 paths .* nothing.png does not exist"):
        labelled_images(folder / "labels.csv")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd"])
def test_csv_that_leads_outside_is_refused(folder, tmp_path, path):
    picture(tmp_path / "secret.png")
    (folder / "labels.csv").write_text(f"path,label\n{path},cat\ncat/0.png,cat\n")
    found = labelled_images(folder / "labels.csv")
    assert len(found.items) == 1
    assert "outside" in found.problems[0].reason


def test_links_that_lead_outside_are_refused(folder, tmp_path):
    picture(tmp_path / "secret.png")
    (folder / "cat" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "away").symlink_to(tmp_path)
    (folder / "cat" / "inside.png").symlink_to(folder / "cat" / "0.png")
    found = labelled_images(folder)
    assert {problem.name for problem in found.problems} == {"cat/link.png", "away"}
    assert len(found.items) == 7


def test_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("a/link.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    (item,) = labelled_images(tmp_path / "x.zip").items
    with pytest.raises(BadInput, match="is a link"):
        item.read()


def test_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/large.png", bytes(200 * 2**20))
    (item,) = labelled_images(tmp_path / "x.zip").items
    with pytest.raises(BadInput, match="more than"):
        item.read()


@pytest.mark.parametrize("names", [["cat", "dog"], None])
def test_parquet_of_hugging_face(folder, tmp_path, names):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    images = [{"bytes": (folder / "cat" / f"{n}.png").read_bytes(), "path": None} for n in (0, 1)]
    table = pyarrow.table({"image": images, "label": [0, 1]})
    if names:
        feature = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    found = labelled_images(tmp_path / "train-00000-of-00001.parquet")
    assert found.labels == (("cat", "dog") if names else ("0", "1"))
    assert decode(found.items[1].read()).pixels[0, 0, 0] == 1


def test_parquet_of_paths(folder):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"path": ["cat/0.png", "../x"], "label": ["cat", "x"]}), folder / "t.parquet")
    found = labelled_images(folder / "t.parquet")
    assert [item.label for item in found.items] == ["cat"]
    assert "outside" in found.problems[0].reason


def test_damaged_parquet(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(BadData, match="damaged"):
        labelled_images(tmp_path / "x.parquet")


def test_empty_folder_and_missing_path(tmp_path):
    with pytest.raises(BadData, match="no labelled images"):
        labelled_images(tmp_path)
    with pytest.raises(WrongUsage, match="does not exist"):
        labelled_images(tmp_path / "missing")


def test_mapping_of_labels():
    known = ("cat", "Dog", "red panda")
    assert mapped(("CAT", "dog", "red_panda"), known) == {"CAT": "cat", "dog": "Dog", "red_panda": "red panda"}
    assert mapped(("kitten",), known, {"kitten": "cat"}) == {"kitten": "cat"}
    with pytest.raises(WrongUsage, match=r"bird.*--map"):
        mapped(("bird",), known)
    with pytest.raises(WrongUsage, match="'bird' is not a label"):
        mapped(("cat",), known, {"cat": "bird"})
