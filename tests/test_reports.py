import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
import pytest
from test_metrics import HAND_PROBABILITIES, HAND_TRUTH, predictions

from metart.evaluation import metrics, reports

NAMES = ["Italian, Florence", 'Roman "Cypriot"', "中国"]


def read_csv(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_predictions_hold_every_picture_with_its_answers_in_order(tmp_path: Path) -> None:
    names = [f"{NAMES[label]}/{index}.jpg" for index, label in enumerate(HAND_TRUTH)]
    reports.write_predictions(tmp_path / "predictions.csv", names, HAND_TRUTH, HAND_PROBABILITIES, NAMES)
    header, *rows = read_csv(tmp_path / "predictions.csv")
    assert header[:5] == ["picture", "truth", "probability_of_truth", "answer_1", "probability_1"]
    assert len(header) == 3 + 2 * 3
    assert [row[0] for row in rows] == names
    assert rows[2][1:] == [NAMES[0], "0.2", NAMES[1], "0.7", NAMES[0], "0.2", NAMES[2], "0.1"]


def test_predictions_stop_at_five_answers(tmp_path: Path) -> None:
    truth, probabilities = predictions(10, 22)
    labels = [str(number) for number in range(22)]
    reports.write_predictions(tmp_path / "p.csv", labels[:10], truth, probabilities, labels)
    _, *rows = read_csv(tmp_path / "p.csv")
    for row, expected in zip(rows, probabilities, strict=True):
        assert [int(cell) for cell in row[3::2]] == expected.argsort()[::-1][:5].tolist()
        assert [float(cell) for cell in row[4::2]] == pytest.approx(sorted(expected)[::-1][:5], abs=1e-6)


def test_label_table_starts_with_the_largest_label(tmp_path: Path) -> None:
    figures = metrics.by_label(HAND_TRUTH, HAND_PROBABILITIES)
    reports.write_label_table(tmp_path / "labels.csv", figures[::-1], NAMES)
    _, *rows = read_csv(tmp_path / "labels.csv")
    assert rows == [
        [NAMES[0], "3", "0.6667", "0.6667", "0.6667", NAMES[1], "1"],
        [NAMES[1], "2", "0.3333", "0.5000", "0.4000", NAMES[0], "1"],
        [NAMES[2], "1", "0.0000", "0.0000", "0.0000", NAMES[1], "1"],
    ]


def test_confusion_matrix_table_names_both_sides(tmp_path: Path) -> None:
    matrix = metrics.confusion_matrix(HAND_TRUTH, HAND_PROBABILITIES)
    reports.write_confusion_matrix(tmp_path / "matrix.csv", matrix, NAMES)
    assert read_csv(tmp_path / "matrix.csv") == [
        ["truth \\ answer", *NAMES],
        [NAMES[0], "2", "1", "0"],
        [NAMES[1], "1", "1", "0"],
        [NAMES[2], "0", "1", "0"],
    ]


@pytest.mark.parametrize("labels", [5, 22, 600])
def test_confusion_picture_is_readable_at_any_number_of_labels(labels: int, tmp_path: Path) -> None:
    truth, probabilities = predictions(1000, labels)
    matrix = metrics.confusion_matrix(truth, probabilities)
    label_names = [f"$label_{number} " + "x" * 60 for number in range(labels)]
    figure: Any = reports.confusion_figure(matrix, label_names)
    reports.save(figure, tmp_path / "matrix.png")
    (axes,) = figure.axes
    shown = min(labels, 30)
    assert len(axes.get_yticklabels()) == len(axes.get_xticklabels()) == shown
    largest = sorted(range(labels), key=lambda label: (-matrix[label].sum(), label))[:shown]
    assert [text.get_text().split()[0] for text in axes.get_yticklabels()] == [f"$label_{n}" for n in sorted(largest)]
    assert sum(int(text.get_text()) for text in axes.texts) == matrix[np.ix_(largest, largest)].sum()
    with Image.open(tmp_path / "matrix.png") as picture:
        assert max(picture.size) <= 1500
    # No label is drawn over its neighbour.
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0  # None is cut off at the edge.


def test_reliability_picture_shows_the_bins(tmp_path: Path) -> None:
    figure: Any = reports.reliability_figure(HAND_TRUTH, HAND_PROBABILITIES)
    reports.save(figure, tmp_path / "reliability.png")
    _, model = figure.axes[0].lines
    assert list(model.get_xdata()) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert list(model.get_ydata()) == pytest.approx([0, 1, 0, 1, 1])
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == len(HAND_TRUTH)


def test_the_most_confident_mistakes_come_first() -> None:
    assert reports.most_confident_mistakes(HAND_TRUTH, HAND_PROBABILITIES).tolist() == [2, 4, 5]
    truth, probabilities = predictions(1000, 22)
    assert len(reports.most_confident_mistakes(truth, probabilities)) == reports.SHOWN_MISTAKES


@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_mistakes_are_shown_with_truth_and_answer(count: int, tmp_path: Path) -> None:
    pictures = [np.full((20, 30 + index, 3), index, np.uint8) for index in range(count)]
    truth = np.full(count, 2)
    probabilities = np.tile(np.array([[0.1, 0.8, 0.1]], dtype=np.float32), (count, 1))
    names = [f"China/{index}.jpg" for index in range(count)]
    figure: Any = reports.mistakes_figure(pictures, names, truth, probabilities, NAMES)
    reports.save(figure, tmp_path / "mistakes.png")
    drawn = [axes for axes in figure.axes if axes.images]
    assert [np.shape(axes.images[0].get_array())[1] for axes in drawn] == [30 + index for index in range(count)]
    titles = [f'answer: Roman "Cypriot" 80%\ntruth: 中国\n{index}.jpg' for index in range(count)]
    assert [axes.get_title() for axes in drawn] == titles
    assert (tmp_path / "mistakes.png").stat().st_size > 1000


@pytest.mark.parametrize("neighbours", [0, 5])
def test_a_long_label_leaves_room_for_its_probability(neighbours: int, tmp_path: Path) -> None:
    image, heat = np.zeros((8, 8, 3), np.uint8), np.ones((2, 2), np.float32)
    nearest = [(image, "China/1.jpg")] * neighbours
    figure = reports.explanation_figure(image, heat, nearest, "a.jpg", ("made for the market in Europe, " * 20, 0.914))
    reports.save(figure, tmp_path / "page.png")
    title: Any = figure.get_suptitle()
    name, answer = title.split("\n")
    assert name == "a.jpg" and answer.startswith("made for") and answer.endswith("… 91.4%")
    (text,) = (each for each in figure.texts if each.get_text() == title)
    assert text.get_window_extent().x0 >= 0  # Nothing is cut off at the edge.
