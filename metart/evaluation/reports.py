"""What the answers of a classifier are worth, as tables and pictures for people.

`truth` is int64 [n], `probabilities` float32 [n, labels], `names` the n pictures, `label_names` the labels in order.
"""

from collections.abc import Sequence
import os
import warnings

from matplotlib.figure import Figure
import numpy as np

from metart.common.files import csv_line, open_replacing, replacing
from metart.evaluation import metrics
from metart.evaluation.inference import answer_cells, answer_columns

ANSWERS = 5  # Columns of predictions.csv.
FEW_LABELS = 8  # Of a confusion matrix that is drawn large.
SHOWN_LABELS = 30  # Rows of a confusion matrix that can still be read; its CSV has all.
SHOWN_MISTAKES = 24
MISTAKES_A_ROW = 6
MAX_LABEL_CHARACTERS = 28
DOTS_PER_INCH = 100

PathLike = str | os.PathLike[str]


def write_predictions(
    path: PathLike, names: Sequence[str], truth: np.ndarray, probabilities: np.ndarray, label_names: Sequence[str]
) -> None:
    """Writes a CSV row for each picture: its label, the probability of that, and the best answers with theirs."""
    count = min(ANSWERS, len(label_names))
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    with open_replacing(path) as file:
        file.write(csv_line(["picture", "truth", "probability_of_truth", *answer_columns(count)]))
        for name, label, row, answers in zip(names, truth, probabilities, best, strict=True):
            cells = answer_cells((label_names[answer], row[answer]) for answer in answers)
            file.write(csv_line([name, label_names[label], f"{row[label]:.6g}", *cells]))


def write_label_table(path: PathLike, figures: Sequence[metrics.LabelFigures], label_names: Sequence[str]) -> None:
    """Writes a CSV row for each label, the one with most pictures first."""
    with open_replacing(path) as file:
        columns = ["label", "pictures", "precision", "recall", "f1", "most_confused_with", "times_confused"]
        file.write(csv_line(columns))
        for each in sorted(figures, key=lambda each: -each.pictures):
            scores = [f"{score:.4f}" for score in (each.precision, each.recall, each.f1)]
            other = "" if each.most_confused_with is None else label_names[each.most_confused_with]
            file.write(csv_line([label_names[each.label], each.pictures, *scores, other, each.times_confused]))


def write_confusion_matrix(path: PathLike, matrix: np.ndarray, label_names: Sequence[str]) -> None:
    """Writes the matrix of `metrics.confusion_matrix` as CSV with the labels on both sides."""
    with open_replacing(path) as file:
        file.write(csv_line(["truth \\ answer", *label_names]))
        file.writelines(csv_line([name, *row]) for name, row in zip(label_names, matrix.tolist(), strict=True))


def confusion_figure(matrix: np.ndarray, label_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix: counts, and as colour their share of the row; the largest labels if there are many.

    A row is a label, a column an answer.
    """
    row_totals = matrix.sum(axis=1)
    shown = np.sort(np.argsort(-row_totals, kind="stable")[:SHOWN_LABELS])
    counts = matrix[np.ix_(shown, shown)]
    shares = counts / np.maximum(row_totals[shown], 1)[:, None]
    names = [_short(label_names[label]) for label in shown]

    # Few words in large letters: TensorBoard shows it on a card of some 230 pixels. Answers are in the same order as
    # the labels at the left, so their numbers do.
    few = len(shown) <= FEW_LABELS
    name_size, count_size, cell = (15, 16, 0.56) if few else (12, 9, 0.32)  # Points, points, inches.
    width = max(map(len, names)) * name_size / 120
    figure = Figure(figsize=(1.2 + width + cell * len(shown), 0.9 + cell * len(shown)), layout="compressed")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    numbers = [str(number) for number in range(1, len(shown) + 1)]
    axes.set_xticks(range(len(shown)), numbers, fontsize=name_size - 2)
    labelled = [f"{name}  {number}" for name, number in zip(names, numbers, strict=True)]
    axes.set_yticks(range(len(shown)), labelled, fontsize=name_size, parse_math=False)
    axes.set_xlabel("answer", fontsize=name_size)
    axes.set_ylabel("truth", fontsize=name_size)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=count_size, color=colour)
    if len(shown) < len(label_names):
        axes.set_title(f"the {len(shown)} of {len(label_names)} labels with most pictures", fontsize=name_size)
    return figure


def reliability_figure(truth: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Draws how often answers of each probability are correct, and how many there are; the dashed line is the ideal."""
    bins = metrics.confidence_bins(truth, probabilities)
    filled = [each for each in bins if each.pictures]
    centres = (np.arange(len(bins)) + 0.5) / len(bins)
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], "--", color="grey")  # Probabilities that are as often correct as they say.
    upper.plot([each.confidence for each in filled], [each.accuracy for each in filled], "o-", linewidth=2)
    upper.set(xlim=(0, 1), ylim=(0, 1.03), yticks=(0, 0.5, 1))
    upper.set_title(f"calibration error {metrics.calibration_error(truth, probabilities):.3f}", fontsize=15)
    upper.set_ylabel("correct", fontsize=15)
    lower.bar(centres, [each.pictures for each in bins], width=0.9 / len(bins))
    lower.set(xticks=(0, 0.5, 1))
    lower.set_xlabel("probability", fontsize=15)
    lower.set_ylabel("pictures", fontsize=15)
    lower.locator_params(axis="y", nbins=2)
    for axes in (upper, lower):
        axes.tick_params(labelsize=14)
    return figure


def most_confident_mistakes(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the positions of at most SHOWN_MISTAKES pictures answered wrongly, the surest answer first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != truth)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:SHOWN_MISTAKES]


def mistakes_figure(
    pictures: Sequence[np.ndarray],
    names: Sequence[str],
    truth: np.ndarray,
    probabilities: np.ndarray,
    label_names: Sequence[str],
) -> Figure:
    """Draws pictures, uint8 [height, width, 3], in rows, each with its label, the answer in its place and its file."""
    rows = max(1, -(-len(pictures) // MISTAKES_A_ROW))
    figure = Figure(figsize=(2.4 * MISTAKES_A_ROW, 2.7 * rows), layout="constrained")
    for axes in figure.subplots(rows, MISTAKES_A_ROW, squeeze=False).flat:
        axes.set_axis_off()
    for axes, picture, name, label, row in zip(figure.axes, pictures, names, truth, probabilities, strict=False):
        axes.imshow(picture)
        answer = f"{_short(label_names[row.argmax()])} {row.max():.0%}"
        title = f"answer: {answer}\ntruth: {_short(label_names[label])}\n{_short(name.rpartition('/')[2])}"
        axes.set_title(title, fontsize=7, parse_math=False)
    if not pictures:
        figure.suptitle("no mistakes")
    return figure


def explanation_figure(
    image: np.ndarray,
    heat: np.ndarray,
    neighbours: Sequence[tuple[np.ndarray, str]],
    picture: str,
    answer: tuple[str, float],
) -> Figure:
    """Draws an image, the places that led to its label, and similar pictures with their names.

    Args:
        image: uint8 [size, size, 3].
        heat: float32 [height, width], range [0, 1]; laid over the whole image.
        neighbours: (uint8 [height, width, 3], name as in "<label>/<file>"), the most similar first.
        picture: What the picture is called, for the first line above; of a long one the end.
        answer: Label and probability, for the second line.
    """
    columns = 2 + len(neighbours)
    figure = Figure(figsize=(2.4 * columns, 3.2), layout="constrained")
    room = MAX_LABEL_CHARACTERS * columns
    shown = picture if len(picture) <= room else f"…{picture[1 - room :]}"
    label, probability = answer
    figure.suptitle(f"{shown}\n{_short(label, room)} {probability:.1%}", fontsize=10, parse_math=False)
    axes = figure.subplots(1, columns)
    for each, caption in zip(axes, ("what the network saw", "what led to the answer (bright)"), strict=False):
        each.imshow(image)
        each.set_title(caption, fontsize=8)
    height, width = image.shape[:2]
    axes[1].imshow(
        heat, cmap="inferno", alpha=0.5, vmin=0, vmax=1, interpolation="bilinear", extent=(0, width, height, 0)
    )
    for each, (neighbour, name) in zip(axes[2:], neighbours, strict=True):
        label, _, file = name.rpartition("/")
        each.imshow(neighbour)
        each.set_title(f"{_short(label)}\n{_short(file)}", fontsize=8, parse_math=False)
    for each in axes:
        each.set_axis_off()
    return figure


def save(figure: Figure, path: PathLike) -> None:
    """Writes a figure as PNG."""
    with replacing(path) as partial, warnings.catch_warnings():
        # The font of matplotlib has no Chinese or Japanese; such labels show boxes and stand in the CSV.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(partial, format="png", dpi=DOTS_PER_INCH)


def _short(label: str, room: int = MAX_LABEL_CHARACTERS) -> str:
    return label if len(label) <= room else label[: room - 1] + "…"
