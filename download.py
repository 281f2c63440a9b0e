#!/usr/bin/env python3
"""Step 3 of 10: downloads the photographs of listed artworks, one folder a label.

Reads   arts-select.list (arts-all.list from step 2, its first line and some others, or lines of the original tutorial).
Writes  data/met_art/<label>/<object id>.jpg and data/download-failures.csv (object_id, label, address, reason).

    python download.py --max_images_per_label=100 --contact=you@example.org

A photograph is looked for at the address in the list, in the public bucket, and with the museum's Collection API.
Safe to run again: a file that exists is complete, only what is missing is fetched. A list that gives photographs other
labels than they have is refused; --relabel moves them.
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.
if __name__ == "__main__":  # Before the long imports.
    from metart.common import startup

    startup.begin()

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
import contextlib
import csv
import functools
import json
import os
import re
from typing import IO, NamedTuple

from metart.common.cores import available_cores
from metart.common.files import csv_line, locked, make_folder, open_replacing, replacing
from metart.common.flags import Parser, Unreachable, UserError, number, path, run
from metart.common.labels import PICTURES_FOLDER, write_folder
from metart.common.progress import Progress
from metart.museum.artworks import Artwork, open_list, pick_labels, select
from metart.museum.label_folders import (
    DOWNLOAD_LOCK,
    find_relabelled,
    is_there,
    photograph_path,
    relabel,
    tidy_folders,
)
from metart.museum.web import (
    MAX_PICTURE_BYTES,
    SILENT_SECONDS,
    HostGivenUp,
    RequestPolicy,
    StillFailing,
    Unavailable,
    Web,
    is_disk_error,
)
from metart.records.pictures import MAX_PIXELS, BadPicture, declared_pixels, normalise

BUCKET_URL = "https://storage.googleapis.com/gcs-public-data--met"
IN_BUCKET = re.compile(r"^(?:gs:/|https?://storage\.googleapis\.com)/gcs-public-data--met(?=/)")
COLLECTION_API_URL = "https://collectionapi.metmuseum.org/public/collection/v1"
MAX_ANSWER_BYTES = 5_000_000  # An artwork in the Collection API has some 5 kB.
MAX_SHOWN_LETTERS = 2_000  # Of an address in the list of failures: an answer may name any.
ASKED_FIRST = "not asked yet, the next run begins with it"  # Ends reasons in the list of failures.

# The museum keeps each photograph in two sizes, under the same name in two folders. `small` bounds those that
# come from the bucket, which has only the large ones; 1600 pixels are plenty for networks that see 299.
SIZE_FOLDERS = {"small": "web-large", "original": "original"}
MAX_SIDES = {"small": 1600, "original": 65_000}  # Pixels; JPEG ends at 65,535.


class Sources(NamedTuple):
    """Where photographs come from, and which."""

    bucket_url: str
    collection_api_url: str
    image_size: str  # A key of SIZE_FOLDERS.
    public_domain_only: bool
    decoders: ThreadPoolExecutor  # Few threads: a large picture takes up to a gigabyte, and a thread keeps some of it.


class Failure(Exception):
    """An artwork without a photograph: the last address tried, and what was wrong with each."""

    def __init__(self, address: str, reason: str, is_unasked: bool):
        super().__init__(reason)
        self.address = address
        self.is_unasked = is_unasked  # A host was given up, because of other artworks.


def build_parser() -> Parser:
    shard = os.environ.get("JOB_COMPLETION_INDEX", "0")  # Kubernetes sets it in the pods of an Indexed Job.
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--list_file", type=path, default="arts-select.list", help="the artworks")
    add("--dataset_dir", type=path, default="data", help=f"where {PICTURES_FOLDER}/ goes")
    add("--image_size", choices=sorted(MAX_SIDES), default="small", help="small bounds the longest side to 1600 pixels")
    add("--labels", action="append", default=[], metavar="LABEL,…", help="take only these labels of the list")
    add("--max_images", type=number(int, 1), help="take only the first artworks of the list")
    add("--max_images_per_label", type=number(int, 1), help="take only the first artworks of each label")
    parser.add_boolean("public_domain_only", True, "skip what is not in the public domain")
    parser.add_boolean("relabel", False, "only move what is there to the labels that the list now gives it")
    add("--num_workers", type=number(int, 1, 256), default=16, help="downloads at once")
    add("--requests_per_second", type=number(float, 0.01), default=10, help="limit for each host, shared by all shards")
    add("--timeout_seconds", type=number(float, 0.1, 86_400), default=60, help="limit for one download")
    add("--pause_seconds", type=number(float, 0), default=30, help="first pause for a host that blocks robots; doubles")
    add("--max_failed_percent", type=number(float, 0, 100), default=10, help="fail if more artworks have no photograph")
    add("--contact", default="", help="your e-mail or web address, for the hosts' administrators")
    add("--num_shards", type=number(int, 1), default=1, help="split the list over this many machines")
    add("--shard_index", type=number(int, 0), default=shard, help="the part, from 0; default: JOB_COMPLETION_INDEX")
    add("--bucket_url", default=BUCKET_URL, help="a mirror of the public bucket")
    add("--collection_api_url", default=COLLECTION_API_URL, help="a mirror of the Collection API")
    parser.add_boolean("allow_private_hosts", False, "let addresses reach this machine and its own network")
    return parser


def fetch_photograph(web: Web, sources: Sources, artwork: Artwork) -> bytes:
    """Returns the photograph of an artwork as a JPEG, from the first of three sources that has it.

    Raises:
        Failure: None of them has.
    """

    def parse(body: IO[bytes]) -> bytes:
        data = body.read()
        try:
            return sources.decoders.submit(normalise, data, MAX_SIDES[sources.image_size]).result()
        except BadPicture as error:
            if declared_pixels(data) > MAX_PIXELS:  # Another download would be as large.
                raise Unavailable(str(error)) from None
            raise

    in_list = listed_address(artwork.image_url, sources)
    in_bucket = f"{sources.bucket_url}/{artwork.object_id}/0.jpg"
    in_collection = f"{sources.collection_api_url}/objects/{artwork.object_id}"
    reasons: dict[str, str] = {}
    kinds = set()
    for address in filter(None, dict.fromkeys([in_list, in_bucket, in_collection])):
        try:
            if address == in_collection:
                address = ask_collection(web, sources, artwork.object_id)
            if address not in reasons:
                return web.fetch(address, MAX_PICTURE_BYTES, parse)
        except Unavailable as error:
            reasons[address] = str(error)
            kinds.add(type(error))
        except Exception as error:  # Whatever a strange answer causes concerns this address alone.
            if is_disk_error(error):
                raise
            reasons[address] = f"{type(error).__name__}: {error}"
    reason = "; ".join(f"{address[:MAX_SHOWN_LETTERS]}: {reason}" for address, reason in reasons.items())
    raise Failure(address[:MAX_SHOWN_LETTERS], reason, HostGivenUp in kinds and StillFailing not in kinds)


def listed_address(image_url: str, sources: Sources) -> str:
    """Returns the address of a photograph, in the size asked for and, however the list names the bucket, its mirror."""
    size_folder = SIZE_FOLDERS[sources.image_size]
    image_url = re.sub(r"(/CRDImages/[^/]+)/(?:web-large|original)/", rf"\1/{size_folder}/", image_url)
    return IN_BUCKET.sub(lambda match: sources.bucket_url, image_url)


def ask_collection(web: Web, sources: Sources, object_id: int) -> str:
    """Returns the address of the photograph that the Collection API names."""

    def parse(body: IO[bytes]) -> dict[str, object]:
        answer = json.load(body)
        if not isinstance(answer, dict):
            raise ValueError("not an artwork of the Collection API")
        return answer

    answer = web.fetch(f"{sources.collection_api_url}/objects/{object_id}", MAX_ANSWER_BYTES, parse)
    if answer.get("objectID", object_id) != object_id:
        raise Unavailable("an answer about another object")
    if sources.public_domain_only and answer.get("isPublicDomain") is not True:
        raise Unavailable("not in the public domain")
    large, small = answer.get("primaryImage"), answer.get("primaryImageSmall")
    image_url = (small or large) if sources.image_size == "small" else (large or small)
    if not image_url:
        raise Unavailable("has no photograph")
    return str(image_url)


def in_parallel(
    download: Callable[[Artwork], int], artworks: Iterable[Artwork], num_workers: int
) -> Iterator[tuple[Artwork, Future[int]]]:
    """Yields each artwork when its download has ended; keeps few waiting, however long the list."""
    pool = ThreadPoolExecutor(num_workers)
    running: dict[Future[int], Artwork] = {}
    try:
        for artwork in artworks:
            running[pool.submit(download, artwork)] = artwork
            if len(running) >= 2 * num_workers:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future
        for future in as_completed(running):
            yield running[future], future
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def read_failed(failures_path: Path) -> set[int]:
    """Returns the objects that earlier runs have asked for in vain, from the list of failures of the last one."""
    failed = set()
    if failures_path.is_file():
        with (
            contextlib.suppress(OSError, csv.Error),  # Somebody else has written it.
            open(failures_path, encoding="utf-8", errors="replace", newline="") as file,
        ):
            for row in csv.reader(file):
                if row and re.fullmatch("[0-9]{1,18}", row[0]) and not row[-1].endswith(ASKED_FIRST):
                    failed.add(int(row[0]))
    return failed


def download_missing(
    fetch: Callable[[Artwork], bytes],
    wanted: Callable[[], Iterable[Artwork]],
    failed: Collection[int],
    pictures: Path,
    num_workers: int,
    failures: IO[str],
) -> Iterator[Counter[str]]:
    """Downloads what does not exist yet, and lists the failures.

    Args:
        fetch: Returns the photograph of an artwork as a JPEG, or raises Failure.
        wanted: Returns the artworks to have.
        failed: Objects that are asked for last: with enough of them at its head a list would have its hosts given up
            in each run before those that are new.
        pictures: The folder met_art.
        num_workers: Downloads at once.
        failures: Gets the list of failures.

    Yields:
        After each artwork the counts so far: "downloaded", "bytes" and "failed".
    """

    def download(artwork: Artwork) -> int:
        path = photograph_path(pictures, artwork)
        if path.exists() and not path.is_file():  # A pipe would be waited for.
            raise FileExistsError(f"{path} is in the way: it is no file")
        picture = fetch(artwork)
        write_folder(pictures, artwork.label)
        with replacing(path) as partial:
            partial.write_bytes(picture)
        return len(picture)

    totals: Counter[str] = Counter()
    failures.write(csv_line(("object_id", "label", "address", "reason")))
    missing = (
        artwork
        for is_last in ((False, True) if failed else (False,))
        for artwork in wanted()
        if (artwork.object_id in failed) == is_last and not is_there(photograph_path(pictures, artwork))
    )
    for artwork, future in in_parallel(download, missing, num_workers):
        try:
            totals["bytes"] += future.result()
            totals["downloaded"] += 1
        # Nothing about one artwork ends the run, but a disk that takes no more does, or a locale without its letters.
        except Exception as error:
            if isinstance(error, UnicodeEncodeError) or is_disk_error(error):
                raise
            address = error.address if isinstance(error, Failure) else ""
            is_first = isinstance(error, Failure) and error.is_unasked and artwork.object_id not in failed
            reason = f"{error}; {ASKED_FIRST}" if is_first else error
            failures.write(csv_line((artwork.object_id, artwork.label, address, reason)))
            totals["failed"] += 1
        yield totals


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    flags = parser.parse_args(argv)
    if flags.shard_index >= flags.num_shards:
        parser.error(f"--shard_index={flags.shard_index} must be below --num_shards={flags.num_shards}")
    shard = "" if flags.num_shards == 1 else f"-{flags.shard_index:05}-of-{flags.num_shards:05}"
    failures_path = flags.dataset_dir / f"download-failures{shard}.csv"
    pictures = flags.dataset_dir / PICTURES_FOLDER
    rate = flags.requests_per_second / flags.num_shards
    say = functools.partial(print, file=sys.stderr)

    with open_list(flags.list_file) as read:
        # The whole list is checked before the first download.
        listed = Counter((artwork.label, artwork.is_public_domain) for artwork in read())
        if not listed:
            raise UserError(f"{flags.list_file} lists no artwork; write it again with bigquery.py")
        all_labels = {label for label, _ in listed}
        labels = pick_labels(flags.labels, all_labels)
        if flags.relabel:
            moved, deleted = relabel(flags.dataset_dir, read, all_labels)
            print(
                f"{moved:,} photographs moved to the labels of {flags.list_file}, {deleted:,} deleted, "
                "as these labels have them; run the command without --relabel for what is missing"
            )
            return
        relabelled = find_relabelled(pictures, read)
        if relabelled:
            first, (artwork, *_) = next(iter(relabelled.items()))
            raise UserError(
                f"photographs under labels that {flags.list_file} does not give them: {len(relabelled):,}, as {first}, "
                f"which is {artwork.label!r} there; --relabel moves them, another --dataset_dir keeps both"
            )

        def wanted() -> Iterator[Artwork]:
            artworks = (artwork for artwork in read() if artwork.label in labels)
            limits = flags.max_images, flags.max_images_per_label
            return select(artworks, flags.public_domain_only, *limits, flags.num_shards, flags.shard_index)

        skipped = sum(listed[label, False] for label in labels)
        if flags.public_domain_only and skipped:
            say(f"{skipped:,} artworks of {flags.list_file} are not in the public domain: skipped")
        there = Counter(is_there(photograph_path(pictures, artwork)) for artwork in wanted())
        count = there.total()
        say(f"{listed.total():,} artworks in {flags.list_file}, {count:,} wanted, {there[True]:,} there already")
        if rate < 1 / SILENT_SECONDS:
            say(f"each host is asked every {1 / rate:,.0f} s")

        policy = RequestPolicy(rate, flags.timeout_seconds, flags.pause_seconds, contact=flags.contact)
        urls = flags.bucket_url.rstrip("/"), flags.collection_api_url.rstrip("/")
        decoders = ThreadPoolExecutor(available_cores())
        sources = Sources(*urls, flags.image_size, flags.public_domain_only, decoders)
        totals: Counter[str] = Counter()
        with (
            locked(flags.dataset_dir, DOWNLOAD_LOCK.format(shard)),
            Progress("Downloading", count, "pictures", initial=there[True]) as progress,
            open_replacing(failures_path, errors="backslashreplace") as failures,
            Web(policy, progress.write, flags.allow_private_hosts, trusted=urls) as web,
        ):
            make_folder(pictures)
            tidy_folders(pictures, all_labels)
            fetch = functools.partial(fetch_photograph, web, sources)
            failed = read_failed(failures_path)
            for totals in download_missing(fetch, wanted, failed, pictures, flags.num_workers, failures):
                progress.update(note=f"{totals['bytes'] / 1e6:,.1f} MB, {totals['failed']:,} failed")
    print(
        f"{totals['downloaded']:,} pictures downloaded ({totals['bytes'] / 1e6:,.1f} MB), {there[True]:,} were there,"
        f" {totals['failed']:,} failed: {pictures}"
    )
    if totals["failed"] > count * flags.max_failed_percent / 100:
        raise Unreachable(
            f"{totals['failed']:,} of {count:,} artworks have no photograph, more than"
            f" --max_failed_percent={flags.max_failed_percent:g}; the reasons are in {failures_path},"
            " and running again tries them again"
        )


if __name__ == "__main__":
    run(main)
