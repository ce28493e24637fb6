"""`zoo.dataclass` makes classes that behave as the standard library's frozen dataclasses."""

import copy
import dataclasses
import pickle

import pytest

from zoo.dataclass import dataclass

STANDARD = dataclasses.dataclass(frozen=True)
OURS = dataclass(frozen=True)


@OURS
class Point:
    x: int
    y: int = 2
    label: str = "a"

    @property
    def total(self):
        return self.x + self.y


@OURS
class Point3(Point):
    z: float = 0.5


def make(decorate):
    return decorate(type("Point", (), {"__annotations__": {"x": int, "y": int, "label": str}, "y": 2, "label": "a"}))


@pytest.mark.parametrize(
    ("values", "named"),
    [((1,), {}), ((1, 5), {}), ((1, 5, "b"), {}), ((), {"x": 1}), ((1,), {"label": "c"}), ((), {"label": "c", "x": 3})],
)
def test_same_values_as_standard_library(values, named):
    standard, ours = (make(decorate)(*values, **named) for decorate in (STANDARD, OURS))
    assert dataclasses.asdict(ours) == dataclasses.asdict(standard)
    assert repr(ours) == repr(standard)
    assert hash(ours) == hash(standard)
    assert dataclasses.replace(ours, y=7).y == 7
    assert [field.name for field in dataclasses.fields(ours)] == ["x", "y", "label"]


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, 2, "b", 4), {}), ((1,), {"x": 2}), ((1,), {"z": 2}), ((), {"y": 1}), ((1, 2, "b"), {"label": "c"})],
)
def test_same_refusals_as_standard_library(values, named):
    for decorate in (STANDARD, OURS):
        with pytest.raises(TypeError):
            make(decorate)(*values, **named)


def test_equal_only_to_same_class_and_values():
    assert Point(1) == Point(1, 2, "a") != Point(1, 3)
    assert Point(1) != Point3(1)
    assert Point(1) != (1, 2, "a")
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_inherited_fields_and_members():
    point = Point3(1, z=2.0)
    assert (point.x, point.y, point.label, point.z, point.total) == (1, 2, "a", 2.0, 3)
    assert repr(point) == "Point3(x=1, y=2, label='a', z=2.0)"
    with pytest.raises(TypeError):
        Point3(1, 2, "a", 0.1, 5)


def test_own_methods_are_kept():
    own = OURS(
        type("Own", (), {"__annotations__": {"x": int}, "__repr__": lambda self: "own", "__hash__": lambda s: 5})
    )
    assert (repr(own(1)), hash(own(1))) == ("own", 5)


def test_fields_cannot_be_changed():
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.other = 2
    assert point == Point(1)


def test_copies():
    for duplicate in (copy.copy(Point3(1)), copy.deepcopy(Point3(1)), pickle.loads(pickle.dumps(Point3(1)))):
        assert duplicate == Point3(1)
        assert type(duplicate) is Point3


def test_field_order_rule_of_standard_library():
    with pytest.raises(TypeError, match="default"):
        OURS(type("Wrong", (), {"__annotations__": {"x": int, "y": int}, "x": 1}))
