"""Frozen dataclasses that are made fast, because `zoo predict` makes thirty of them each time it starts.

The standard library compiles six methods for each class, which takes 0.5 to 1 ms in a new process of Python 3.11. Here
all classes share the same six methods. `fields`, `replace`, `asdict` and inheritance work as usual; of the options of
fields, only defaults do. Making an instance takes about one and a half times as long, so classes that batches make for
every image are the standard library's.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    from dataclasses import MISSING, FrozenInstanceError, fields
    from dataclasses import dataclass as _dataclass

    Class = TypeVar("Class", bound=type)

    def dataclass(*, frozen: bool):
        """`dataclasses.dataclass(frozen=True)`."""
        assert frozen, "take the standard library's dataclass"

        def make(cls: Class) -> Class:
            own = set(vars(cls))
            cls.__doc__ = cls.__doc__ or cls.__name__  # the standard library would derive one, which takes long
            _dataclass(init=False, repr=False, eq=False)(cls)
            cls._defaults = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
            if list(cls._defaults) != list(cls.__match_args__[len(cls.__match_args__) - len(cls._defaults) :]):
                raise TypeError(f"{cls.__qualname__} has a field without a default after one with a default")
            for name, method in _METHODS.items():
                if name not in own:
                    setattr(cls, name, method)
            return cls

        return make

    def _init(self: Any, /, *values: Any, **named: Any) -> None:
        cls = type(self)
        names, members = cls.__match_args__, self.__dict__
        members.update(zip(names, values))  # noqa: B905 - there may be fewer values
        if len(values) != len(names) or named:
            all_named = {**cls._defaults, **named}
            if len(values) > len(names) or members.keys() & named.keys() or {*members, *all_named} != {*names}:
                raise TypeError(f"{cls.__qualname__}({', '.join(names)}) got {len(values)} values and {[*named]}")
            members.update({name: value for name, value in all_named.items() if name not in members})

    def _repr(self: Any) -> str:
        values = ", ".join([f"{name}={getattr(self, name)!r}" for name in self.__match_args__])
        return f"{type(self).__qualname__}({values})"

    def _values(self: Any) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.__match_args__])

    def _eq(self: Any, other: object) -> Any:
        return _values(self) == _values(other) if type(self) is type(other) else NotImplemented

    def _hash(self: Any) -> int:
        return hash(_values(self))

    def _refuse(self: Any, name: str, *value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to or delete field {name!r}")

    _METHODS = {
        "__init__": _init, "__repr__": _repr, "__eq__": _eq, "__hash__": _hash,
        "__setattr__": _refuse, "__delattr__": _refuse,
    }  # fmt: skip
