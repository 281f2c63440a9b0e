"""Records, compared with those TensorFlow writes."""

from pathlib import Path
import random

import pytest

from metart.networks.slim_compat import tf
from metart.records import tfrecord

SEVEN_BITS = [0, 1, 127, 128, 16_383, 16_384, 2**31, 2**63 - 1]  # Where the encoding of a number grows.


@pytest.mark.parametrize("number", SEVEN_BITS)
@pytest.mark.parametrize("size", [0, 1, 120, 127, 128, 16_300, 16_384, 2_100_000])
def test_the_bytes_are_those_of_tensorflow(tmp_path: Path, number: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    example = tf.train.Example()
    example.features.feature["z/bytes"].bytes_list.value.append(data)
    example.features.feature["a/number"].int64_list.value.append(number)
    example.features.feature["Français"].bytes_list.value.append("é".encode())
    oracle = tmp_path / "oracle.tfrecord"
    with tf.io.TFRecordWriter(str(oracle)) as writer:
        writer.write(example.SerializeToString(deterministic=True))
    assert tfrecord.record({"z/bytes": data, "a/number": number, "Français": "é".encode()}) == oracle.read_bytes()
