"""The benchmarks run and print what they promise. How fast anything is, no test says."""

from pathlib import Path
import re

from processes import run_script
import pytest

TINY = (
    "--models",
    "inception_v2",
    "--head_scope=InceptionV2/Logits",
    "--image_size=32",
    "--batch_sizes=2",
    "--steps=2",
    "--pictures=20",
)


def rows(table: str) -> dict[str, list[str]]:
    """Returns the cells of each row by the first one."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in lines if first and not first.startswith("---")}


def test_table_of_what_needs_no_network(tmp_path: Path) -> None:
    flags = [f"--work_dir={tmp_path}", "--only=decoding|convert", *TINY]
    run = run_script("benchmarks/table.py", "--rounds=2", *flags)
    assert run.status == 0, run.errors
    table = rows(run.output)
    assert list(table) == [
        "decoding with Pillow and nothing else",
        "`convert.py`",
        "`convert.py`, 10 x the pictures",
        "`convert.py`, of decoding alone",
        "memory of `convert.py`, 10 x the pictures",
    ]
    images_per_second, seconds, _, rounds = table["`convert.py`, 10 x the pictures"]
    # Of two rounds the median is the mean, so both cells are rounded values of 200 pictures over the time.
    assert float(images_per_second) == pytest.approx(200 / float(seconds), rel=0.5)
    assert rounds == "2"
    assert len(list((tmp_path / "many/met_art").glob("*/*.jpg"))) == 200
    again = run_script("benchmarks/table.py", "--rounds=0", *flags)
    assert again.output == run.output


@pytest.mark.slow
def test_table_of_everything_but_timm(tmp_path: Path) -> None:
    run = run_script(
        "benchmarks/table.py", f"--work_dir={tmp_path}", "--rounds=1", "--only=^(?!.*step of Keras)", *TINY
    )
    assert run.status == 0, run.errors
    table = rows(run.output)
    for name in ("batch 2: step of inception_v2, bfloat16", "training from 10 x the records", "evaluation, float32"):
        assert float(table[name][0]) > 0
    assert float(table["batch 2: step of inception_v2, float32"][1]) > 0  # Seconds to the first step.
    assert float(table["training from records, of the step alone"][0]) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [0, 1])
def test_table_of_networks(rounds: int, tmp_path: Path) -> None:
    flags = [f"--work_dir={tmp_path}", "--models", "mobilenet_v1_025", "--image_size=128", "--batch_size=2"]
    run = run_script("benchmarks/networks.py", *flags, f"--rounds={rounds}")
    assert run.status == 0, run.errors
    _, parameters, multiplications, *measured, top_1, address = rows(run.output)["`mobilenet_v1_025`"]
    # Its authors count 0.5 million and, for 128 pixels, 14 million.
    assert (parameters, multiplications, top_1) == ("0.5", "0.01", "0.498")
    assert address.endswith("_224.tgz)")
    if rounds == 0:
        assert measured == 4 * ["–"]
    else:
        training, answering, of_floats, of_bytes = map(float, measured)
        assert training > 1 and answering > 1  # It does a hundredth of the work of inception_v3.
        assert of_floats > 2 * of_bytes > 0.5
        again = run_script("benchmarks/networks.py", *flags)
        assert again.output == run.output


@pytest.mark.slow
def test_keras(tmp_path: Path) -> None:
    run = run_script("benchmarks/peer_keras.py", "--image_size=75", "--batch_size=2", "--steps=2")
    assert run.status == 0, run.errors
    assert re.search(r'"images_per_second": \d', run.output)
