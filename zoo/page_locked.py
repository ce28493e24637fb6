"""Page-locked memory of the host: what a GPU reads and writes itself, at the address that the host uses.

onnxruntime gives Python no such memory (1.31: no device of `get_ep_devices()` has a HOST_ACCESSIBLE one), so it comes
from the CUDA runtime library that onnxruntime has loaded. With unified addressing, which every 64-bit system with CUDA
has, the GPU uses it through the same pointer ("CUDA C++ Programming Guide", mapped memory).
"""

from __future__ import annotations

import ctypes
import weakref
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "cudart64_13.dll", "cudart64_12.dll")
PORTABLE_AND_MAPPED = 1 | 2  # cudaHostAllocPortable, cudaHostAllocMapped
HOST = 1  # cudaMemoryTypeHost


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike, library: Any = None) -> npt.NDArray[Any] | None:
    """An array of zeros in page-locked memory, freed with the last reference to it; None where there is no CUDA.

    Args:
        library: the CUDA runtime library; by default the one that is loaded, or can be.
    """
    library = library or _library()
    if library is None:
        return None
    kind = np.dtype(dtype)
    size = max(1, prod(shape) * kind.itemsize)
    pointer = ctypes.c_void_p()
    if library.cudaHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(size), PORTABLE_AND_MAPPED) or not pointer.value:
        return None
    memory = (ctypes.c_ubyte * size).from_address(pointer.value)
    free = weakref.finalize(memory, library.cudaFreeHost, ctypes.c_void_p(pointer.value))
    free.atexit = False  # the driver may be gone by then, and it frees what is left
    array: npt.NDArray[Any] = np.frombuffer(memoryview(memory), kind, prod(shape)).reshape(shape)
    array[...] = 0
    return array


def is_page_locked(array: npt.NDArray[Any], library: Any = None) -> bool:
    """Whether the CUDA runtime knows the array's memory as page-locked."""
    library = library or _library()
    if library is None:
        return False
    attributes = _Attributes()
    failed = library.cudaPointerGetAttributes(ctypes.byref(attributes), ctypes.c_void_p(array.ctypes.data))
    return not failed and bool(attributes.type == HOST)


class _Attributes(ctypes.Structure):
    """cudaPointerAttributes; the reserved end is generous."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("device", ctypes.c_int),
        ("device_pointer", ctypes.c_void_p),
        ("host_pointer", ctypes.c_void_p),
        ("reserved", ctypes.c_long * 16),
    )


def _library() -> Any | None:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
