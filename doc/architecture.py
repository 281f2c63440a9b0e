"""Draws what runs where: the museum, the reader's machine, the cluster.

Reads   nothing.
Writes  doc/architecture.svg.

    python doc/architecture.py

Safe to run again: it writes the same bytes.
"""

from html import escape
from pathlib import Path
import sys
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import metart

OUTPUT = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT = 1010, 455  # Pixels, as all numbers here.
ROW = 66  # From one row of boxes to the next.
BOX_HEIGHT = 44


class Box(NamedTuple):
    """A place: a script, a file, a pod."""

    left: int
    row: int
    width: int
    title: str
    note: str
    colour: str

    @property
    def top(self) -> int:
        return 62 + self.row * ROW

    @property
    def middle(self) -> int:
        return self.top + BOX_HEIGHT // 2

    @property
    def right(self) -> int:
        return self.left + self.width


SERVICE, SCRIPT, FILE, POD, CLAIM = "#fde7c8", "#d6e6fa", "#eeeeee", "#d9f0d9", "#f5d6e0"

GROUPS = [(10, 190, "The museum"), (220, 420, "Your machine"), (660, 340, "Kubernetes cluster")]

METADATA = Box(25, 0, 160, "metadata", "BigQuery or MetObjects.csv", SERVICE)
PHOTOGRAPHS = Box(25, 1, 160, "photographs", "bucket, image host, API", SERVICE)

LIST_SCRIPT = Box(235, 0, 190, "bigquery.py", "step 2", SCRIPT)
DOWNLOAD = Box(235, 1, 190, "download.py", "step 3", SCRIPT)
CONVERT = Box(235, 2, 190, "convert.py", "step 4", SCRIPT)
BUILD = Box(235, 3, 190, "docker build", "step 5", SCRIPT)
TRAIN = Box(235, 4, 190, "train_image_classifier.py", "step 6", SCRIPT)
USE = Box(235, 5, 190, "evaluate, look, classify", "steps 7, 9, 10", SCRIPT)
LIST = Box(475, 0, 150, "arts-select.list", "one artwork a line", FILE)
PICTURES = Box(475, 1, 150, "data/met_art/", "a folder for each label", FILE)
RECORDS = Box(475, 2, 150, "data/*.tfrecord", "and labels.txt", FILE)
IMAGE = Box(475, 3, 150, f"met-art:{metart.__version__}", "scripts and records", FILE)
LOGS = Box(475, 4, 150, "logs/", "checkpoints, event files", FILE)
ANSWERS = Box(475, 5, 150, "answers", "labels, figures, curves", FILE)

PODS = [
    Box(670, row, 195, title, note, POD)
    for row, (title, note) in enumerate(
        [
            ("train-met-art-model", "step 6: train-model.yaml"),
            ("eval-met-art-model", "step 7: eval-model.yaml"),
            ("tensorboard-met-art-model", "step 9: tensorboard.yaml"),
            ("infer-met-art-model", "step 10: infer-model.yaml"),
            ("access-model-logs", "step 8: access-model-logs.yaml"),
        ]
    )
]
VOLUME = Box(900, 2, 92, "met-art-logs", "claim, at /logs", CLAIM)


def draw_box(box: Box) -> str:
    middle = box.left + box.width // 2
    return (
        f'<rect x="{box.left}" y="{box.top}" width="{box.width}" height="{BOX_HEIGHT}" rx="5" fill="{box.colour}"/>\n'
        f'<text x="{middle}" y="{box.top + 19}" class="title">{escape(box.title)}</text>\n'
        f'<text x="{middle}" y="{box.top + 35}">{escape(box.note)}</text>\n'
    )


def draw_arrow(start: tuple[int, int], end: tuple[int, int], text: str = "") -> str:
    (x1, y1), (x2, y2) = start, end
    label = f'<text x="{(x1 + x2) // 2}" y="{(y1 + y2) // 2 - 5}">{escape(text)}</text>\n' if text else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="arrow"/>\n{label}'


def to_the_right(source: Box, target: Box) -> str:
    return draw_arrow((source.right, source.middle), (target.left - 2, target.middle))


def back_to_the_next_row(source: Box, target: Box) -> str:
    return draw_arrow((source.left, source.middle + 12), (target.right + 2, target.middle - 12))


def draw() -> str:
    """Returns the picture as SVG."""
    groups = "".join(
        f'<rect x="{left}" y="10" width="{width}" height="{HEIGHT - 20}" rx="8" class="group"/>\n'
        f'<text x="{left + width // 2}" y="36" class="group-title">{escape(title)}</text>\n'
        for left, width, title in GROUPS
    )
    scripts = [LIST_SCRIPT, DOWNLOAD, CONVERT, BUILD, TRAIN, USE]
    files = [LIST, PICTURES, RECORDS, IMAGE, LOGS, ANSWERS]
    arrows = [to_the_right(METADATA, LIST_SCRIPT), to_the_right(PHOTOGRAPHS, DOWNLOAD)]
    arrows += [to_the_right(script, file) for script, file in zip(scripts, files, strict=True)]
    arrows += [
        back_to_the_next_row(file, script)
        for file, script in [(LIST, DOWNLOAD), (PICTURES, CONVERT), (RECORDS, BUILD), (LOGS, USE)]
    ]
    arrows += [draw_arrow((RECORDS.left, RECORDS.middle + 18), (TRAIN.right + 2, TRAIN.middle - 12))]
    arrows += [draw_arrow((IMAGE.right, IMAGE.middle), (PODS[0].left - 12, IMAGE.middle))]
    arrows += [draw_arrow((PODS[4].left, PODS[4].middle), (LOGS.right + 2, LOGS.middle))]
    to_volume = (VOLUME.left - 2, VOLUME.middle)
    arrows += [draw_arrow((pod.right, pod.middle), to_volume) for pod in PODS[:2]]
    arrows += [draw_arrow(to_volume, (pod.right + 2, pod.middle)) for pod in PODS[2:]]
    boxes = "".join(map(draw_box, [METADATA, PHOTOGRAPHS, *scripts, *files, *PODS, VOLUME]))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">
<style>
text {{ font: 11px sans-serif; text-anchor: middle; fill: #333 }}
.title {{ font-weight: bold; font-size: 12px }}
.group-title {{ font-size: 15px }}
.group {{ fill: none; stroke: #999; stroke-dasharray: 5 4 }}
.arrow {{ stroke: #555; marker-end: url(#head) }}
</style>
<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">\
<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
{groups}{"".join(arrows)}{boxes}</svg>
"""


if __name__ == "__main__":
    OUTPUT.write_text(draw(), encoding="utf-8")
