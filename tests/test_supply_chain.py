"""What is installed and unpacked: every package by its checksum, archives without a way out of their folder."""

import re
import tarfile

from conftest import REPOSITORY
import pytest

SAMPLE = REPOSITORY / "sample-dataset.tar.gz"
NAMES = ["cpu", "gpu", "dev"]


def requirements(name: str) -> set[tuple[str, str]]:
    """Returns the (package, version) pairs that a file asks for, with those of the files it names."""
    found: set[tuple[str, str]] = set()
    for line in (REPOSITORY / "requirements" / f"{name}.txt").read_text().splitlines():
        if line.startswith("-r "):
            found |= requirements(line.removeprefix("-r ").removesuffix(".txt"))
        elif line and not line.startswith("#"):
            package, version = re.split(r"[=;]+", line.replace(" ", ""))[:2]
            found.add((re.sub(r"\[.*\]", "", package).lower(), version))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_package_is_locked_to_its_files(name: str) -> None:
    text = (REPOSITORY / "requirements" / f"{name}.lock").read_text()
    entries = re.findall(
        r"^(\S+?)(?:\[.*\])?==(\S+)[^\\]*((?:\\\n +--hash=sha256:[0-9a-f]{64} ?)+)$", text, re.MULTILINE
    )
    lines = [line for line in text.splitlines() if not line.startswith((" ", "#"))]
    assert len(entries) == len(lines) > 70, "each package has its checksums, and nothing else is in the file"
    locked = {(package.lower(), version) for package, version, _ in entries}
    assert requirements(name) <= locked, "make the lock file anew, as its first lines say"
    assert "://" not in text


def test_the_image_takes_only_locked_packages() -> None:
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    assert dockerfile.count("pip install") == dockerfile.count("--require-hashes") == 1


def test_the_sample_has_only_files_below_its_folder() -> None:
    with tarfile.open(SAMPLE) as archive:
        for member in archive:
            assert member.isreg(), member.name
            assert re.fullmatch(r"SAMPLE\.txt|met_art/[^/]+/\d+(_\d)?\.jpg", member.name)
            assert member.mode & 0o7022 == 0  # Neither set-uid nor writable by others.
