import numpy as np
import pytest
from sklearn import metrics as oracle
from sklearn.dummy import DummyClassifier

from metart.evaluation import metrics


def predictions(pictures: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a classifier that is right more often than by chance; the last label has no picture."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, labels - 1, pictures)
    logits = random.normal(size=(pictures, labels))
    logits[np.arange(pictures), truth] += 1.5
    exponentials = np.exp(logits)
    return truth, (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


HAND_TRUTH = np.array([0, 0, 0, 1, 1, 2])
HAND_PROBABILITIES = np.array(
    [
        [0.9, 0.1, 0.0],  # 0, right
        [0.6, 0.4, 0.0],  # 0, right
        [0.2, 0.7, 0.1],  # 1, wrong
        [0.1, 0.8, 0.1],  # 1, right
        [0.5, 0.3, 0.2],  # 0, wrong
        [0.1, 0.5, 0.4],  # 1, wrong
    ],
    dtype=np.float32,
)


def test_summary_by_hand() -> None:
    figures = metrics.summary(HAND_TRUTH, HAND_PROBABILITIES)
    assert figures["top_1"] == pytest.approx(3 / 6)
    assert "top_5" not in figures
    assert figures["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # F1 = 2 TP / (2 TP + FP + FN): label 0 has 2, 1, 1; label 1 has 1, 2, 1; label 2 has 0, 0, 1.
    assert figures["macro_f1"] == pytest.approx((4 / 6 + 2 / 5 + 0) / 3)
    assert figures["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.2, 0.8, 0.3, 0.4]).mean(), abs=1e-6)
    assert figures["majority_baseline"] == pytest.approx(3 / 6)
    # Confidences 0.9, 0.6, 0.7, 0.8 stand alone in their bins, the two of 0.5 share one and are both wrong.
    assert figures["calibration_error"] == pytest.approx((0.1 + 0.4 + 0.7 + 0.2 + 2 * 0.5) / 6, abs=1e-6)


@pytest.mark.parametrize("labels", [6, 22, 600])
def test_summary_is_that_of_scikit_learn(labels: int) -> None:
    truth, probabilities = predictions(2000, labels)
    answers = probabilities.argmax(axis=1)
    figures = metrics.summary(truth, probabilities)
    in_top = [label in row.argsort()[-5:] for label, row in zip(truth, probabilities, strict=True)]
    expected = {
        "top_1": (answers == truth).mean(),
        "top_5": np.mean(in_top),
        "macro_f1": oracle.f1_score(truth, answers, labels=sorted(set(truth.tolist())), average="macro"),
        "balanced_accuracy": oracle.recall_score(truth, answers, labels=np.unique(truth), average="macro"),
        "log_loss": -np.log(probabilities[np.arange(len(truth)), truth]).mean(),
        "majority_baseline": DummyClassifier(strategy="most_frequent").fit(truth, truth).score(truth, truth),
    }
    assert figures["top_5"] > figures["top_1"] > figures["majority_baseline"]
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pictures", [1, 3, 40])
@pytest.mark.parametrize("labels", [1, 2, 7])
def test_labels_are_those_of_scikit_learn(labels: int, pictures: int) -> None:
    random = np.random.default_rng(pictures)
    truth = random.integers(0, labels, pictures)
    probabilities = random.dirichlet(np.ones(labels), pictures).astype(np.float32)
    answers, numbers = probabilities.argmax(axis=1), range(labels)
    figures = metrics.by_label(truth, probabilities)
    expected = oracle.precision_recall_fscore_support(truth, answers, labels=numbers, zero_division=0)
    of_labels = [(each.precision, each.recall, each.f1, each.pictures) for each in figures]
    np.testing.assert_allclose(np.transpose(of_labels), expected)
    matrix = oracle.confusion_matrix(truth, answers, labels=numbers)
    assert metrics.confusion_matrix(truth, probabilities).tolist() == matrix.tolist()


def test_of_equal_answers_the_first_counts_and_certain_mistakes_cost_what_they_say() -> None:
    equal = np.full([2, 7], 1 / 7, np.float32)
    assert metrics.summary(np.array([0, 4]), equal)["top_5"] == 1
    assert metrics.summary(np.array([5, 6]), equal)["top_5"] == 0
    certain = np.array([[1.0, 1e-30]], np.float32)
    assert metrics.summary(np.array([1]), certain)["log_loss"] == pytest.approx(30 * np.log(10), rel=1e-6)
    assert f"{metrics.summary(np.array([0]), certain)['log_loss']}" == "0.0"  # Not -0.0.


def test_calibration_error_of_equal_confidence_is_the_distance_to_accuracy() -> None:
    probabilities = np.tile(np.array([0.7, 0.2, 0.1], dtype=np.float32), (100, 1))
    truth = np.array([0] * 45 + [1] * 55)
    assert metrics.calibration_error(truth, probabilities) == pytest.approx(0.7 - 0.45, abs=1e-6)
    bins = metrics.confidence_bins(truth, probabilities)
    assert [each.pictures for each in bins if each.pictures] == [100]
    assert sum(each.pictures for each in metrics.confidence_bins(truth, np.eye(3, dtype=np.float32)[truth])) == 100


def test_labels_by_hand() -> None:
    first, second, third = metrics.by_label(HAND_TRUTH, HAND_PROBABILITIES)
    assert first == (0, 3, pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 1, 1)
    assert second == (1, 2, pytest.approx(1 / 3), pytest.approx(1 / 2), pytest.approx(2 / 5), 0, 1)
    assert third == (2, 1, 0.0, 0.0, 0.0, 1, 1)


def test_a_label_without_pictures_and_one_without_mistakes_are_confused_with_none() -> None:
    truth = np.array([0, 0])
    figures = metrics.by_label(truth, np.eye(2, dtype=np.float32)[truth])
    assert [(each.pictures, each.most_confused_with, each.times_confused) for each in figures] == [
        (2, None, 0),
        (0, None, 0),
    ]


def test_confusion_matrix_counts_every_picture_once() -> None:
    matrix = metrics.confusion_matrix(HAND_TRUTH, HAND_PROBABILITIES)
    assert matrix.tolist() == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_a_known_temperature_is_found_and_undone(temperature: float) -> None:
    """Truth drawn from the probabilities themselves is calibrated; a temperature then spoils it."""
    random = np.random.default_rng(0)
    _, calibrated = predictions(20_000, 6)
    truth = (calibrated.cumsum(axis=1) > random.random((len(calibrated), 1))).argmax(axis=1)
    spoilt = metrics.calibrated(calibrated, 1 / temperature)
    fitted = metrics.fit_temperature(truth, spoilt)
    assert fitted == pytest.approx(temperature, rel=0.03)
    repaired = metrics.calibrated(spoilt, fitted)
    assert metrics.summary(truth, repaired)["log_loss"] <= metrics.summary(truth, spoilt)["log_loss"]
    assert metrics.calibration_error(truth, repaired) < 0.02
    assert (repaired.argmax(axis=1) == spoilt.argmax(axis=1)).all()


def test_a_temperature_of_one_changes_nothing_and_zeros_stay_finite() -> None:
    _, probabilities = predictions(50, 6)
    np.testing.assert_allclose(metrics.calibrated(probabilities, 1.0), probabilities, rtol=1e-5)
    certain = np.eye(3, dtype=np.float32)
    assert np.isfinite(metrics.calibrated(certain, 2.0)).all()
    # Wrong and certain: the best temperature is the highest allowed, not a division by zero.
    assert metrics.fit_temperature(np.array([1, 2, 0]), certain) == pytest.approx(
        metrics.TEMPERATURE_RANGE[1], rel=0.01
    )
