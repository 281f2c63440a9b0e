"""What the answers of a classifier are worth, in numbers.

Everywhere `truth` is int64 [n], a label number a picture, and `probabilities` is float32 [n, labels], each row
summing to 1.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

TOP = 5
CONFIDENCE_BINS = 15  # Of equal width, as calibration errors are usually reported (Guo et al., 2017).
TEMPERATURE_RANGE = (0.05, 20.0)


def summary(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Returns the figures that describe a classifier, each in [0, 1] except log_loss.

    `macro_f1` and `balanced_accuracy` (mean recall) count each label once however many pictures it has, if it has any;
    `majority_baseline` is the top_1 of always answering the most frequent label. Fewer than TOP + 1 labels have no
    `top_5`: it would be 1 whatever the answers.
    """
    figures = {"top_1": (probabilities.argmax(axis=1) == truth).mean()}
    if probabilities.shape[1] > TOP:
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]  # Of equals the first, as argmax has it.
        figures["top_5"] = (best == truth[:, np.newaxis]).any(axis=1).mean()
    pictured = [each for each in by_label(truth, probabilities) if each.pictures]
    figures["balanced_accuracy"] = np.mean([each.recall for each in pictured])
    figures["macro_f1"] = np.mean([each.f1 for each in pictured])
    figures["log_loss"] = max(0.0, -_logits(probabilities)[np.arange(len(truth)), truth].mean())  # Never -0.
    figures["calibration_error"] = calibration_error(truth, probabilities)
    figures["majority_baseline"] = np.bincount(truth).max() / len(truth)
    return {name: float(value) for name, value in figures.items()}


class LabelFigures(NamedTuple):
    """How one label fares."""

    label: int
    pictures: int
    precision: float
    recall: float
    f1: float
    most_confused_with: int | None  # The label most often answered in its place.
    times_confused: int


def by_label(truth: np.ndarray, probabilities: np.ndarray) -> list[LabelFigures]:
    """Returns the figures of each label, in the order of the labels; 0 where a quotient has no meaning."""
    counts = confusion_matrix(truth, probabilities)
    pictures, answered, correct = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    scores = np.stack([correct / np.maximum(1, of) for of in (answered, pictures, (answered + pictures) / 2)], axis=1)
    mistakes = counts - np.diag(correct)
    figures = []
    for label, (precision, recall, f1) in enumerate(scores.tolist()):
        other = int(mistakes[label].argmax())
        times = int(mistakes[label, other])
        confused_with = other if times else None
        figures.append(LabelFigures(label, int(pictures[label]), precision, recall, f1, confused_with, times))
    return figures


def confusion_matrix(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns int64 [labels, labels]: how many pictures of the row's label got the column's as the answer."""
    counts = np.zeros([probabilities.shape[1]] * 2, np.int64)
    np.add.at(counts, (truth, probabilities.argmax(axis=1)), 1)
    return counts


class ConfidenceBin(NamedTuple):
    """Pictures whose answers are about equally confident."""

    pictures: int
    confidence: float  # Mean probability of the answers.
    accuracy: float  # Share of the answers that are right.


def confidence_bins(truth: np.ndarray, probabilities: np.ndarray) -> list[ConfidenceBin]:
    """Returns CONFIDENCE_BINS bins of equal width over [0, 1], in order."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == truth
    bin_of = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    pictures, confidence_sum, correct_sum = (
        np.bincount(bin_of, weights, minlength=CONFIDENCE_BINS) for weights in (None, confidence, correct)
    )
    counts = np.maximum(pictures, 1)
    return [
        ConfidenceBin(int(n), float(c), float(a))
        for n, c, a in zip(pictures, confidence_sum / counts, correct_sum / counts, strict=True)
    ]


def calibration_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the expected calibration error: how far, on average, confidence lies from accuracy, in [0, 1]."""
    bins = confidence_bins(truth, probabilities)
    return sum(each.pictures * abs(each.confidence - each.accuracy) for each in bins) / len(truth)


def calibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns the softmax of the logits divided by a temperature; the order of the labels stays.

    Probabilities are the softmax of the logits, so their logarithms serve as logits.
    """
    return special.softmax(_logits(probabilities) / temperature, axis=1).astype(np.float32)


def fit_temperature(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the temperature with the least log-loss; above 1 where the classifier was too sure of itself."""
    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        return -special.log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(truth)), truth].mean()

    return float(np.exp(optimize.minimize_scalar(loss, bounds=np.log(TEMPERATURE_RANGE), method="bounded").x))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    smallest = np.finfo(np.float32).tiny  # Some rows have probabilities below what float32 can hold.
    return np.log(np.maximum(probabilities.astype(np.float64), smallest))
