"""A trained network that answers: probabilities of the labels for batches of images."""

from collections.abc import Iterable, Mapping
import json
from pathlib import Path
import re
from typing import Any, NamedTuple

import numpy as np

from metart.networks.slim_compat import slim, tf
from metart.common.files import open_replacing, read_json
from metart.common.flags import UserError, notice
from metart.common.progress import Progress
from metart.networks import checkpoints, registry
from metart.networks.preprocessing import CENTRAL_FRACTION, Looks
from metart.networks.session import DEFAULT_DEVICE, Device, enough_memory
from metart.records.pictures import MAX_SIDE
from metart.training import input_pipeline

METRICS_FILENAME = "metrics.json"  # In EVAL_DIR.
TEMPERATURE_SUFFIX = ".temperature.json"  # Of the file beside a checkpoint, as in model.ckpt-100.temperature.json.


class Classifier:
    """A network with the weights of a checkpoint; use as a context manager, or `close` it."""

    def __init__(
        self,
        checkpoint: str,
        model_name: str,
        looks: Looks,
        label_names: list[str],
        temperature: float = 1.0,
        device: Device = DEFAULT_DEVICE,
    ):
        """Builds the network and loads the weights; their moving averages where the checkpoint has them.

        Args:
            checkpoint: As in `…/model.ckpt-100`.
            model_name: A key of `registry.NETWORKS`.
            looks: How it looks at a picture.
            label_names: In the order of training.
            temperature: The logits are divided by it, see `metrics.fit_temperature`.
            device: Where to run, and in what precision; less than float32 moves a probability by a percent on average,
                one of an unsure answer by ten.

        Raises:
            UserError: The checkpoint is damaged, of another network or of another number of labels, or has weights that
                are no finite numbers.
        """
        self.checkpoint = checkpoint
        self.model_name = model_name
        self.looks = looks
        self.label_names = label_names
        self.temperature = temperature
        self.device = device
        with tf.Graph().as_default():
            shape = [None, looks.image_size, looks.image_size, 3]
            self.images = tf.compat.v1.placeholder(tf.float32, shape, name="images")
            # float32 [n, labels]: of one look, and probabilities of all looks together.
            self.logits, _ = registry.build(model_name, self.images, len(label_names))
            self.output_of_one_look = self.output = tf.nn.softmax(self.logits / temperature)
            if looks.sizes:
                self.output = tf.nn.softmax(tf.reduce_mean(self._logits_of_looks(), axis=0) / temperature)
            variables = slim.get_model_variables()
            checkpoints.check(checkpoint, variables, model_name, len(label_names))
            self.fingerprint = checkpoints.fingerprint(checkpoint)  # Now: training may delete the checkpoint later.
            saver = tf.compat.v1.train.Saver(checkpoints.averaged(checkpoint, variables))
            self.session = tf.compat.v1.Session(config=device.session_config())
            checkpoints.restore(self.session, saver, checkpoint)
            if not all(np.isfinite(weights).all() for weights in self.session.run(variables)):
                raise UserError(f"{checkpoint} has weights that are no finite numbers; take another checkpoint")

    def _logits_of_looks(self) -> list[tf.Tensor]:
        """Builds the same network over the picture and its mirror image in each of the sizes."""
        logits = [self.logits]
        with tf.compat.v1.variable_scope(tf.compat.v1.get_variable_scope(), reuse=True):
            for size in self.looks.sizes:
                images = self.images if size == self.looks.image_size else tf.image.resize(self.images, [size, size])
                for look in (images, tf.reverse(images, axis=[2])):
                    if look is not self.images:
                        logits.append(registry.build(self.model_name, look, len(self.label_names))[0])
        return logits

    def described(self) -> dict[str, Any]:
        """Returns what its answers depend on, in the words of metrics.json and export.json."""
        return {
            "checkpoint_fingerprint": self.fingerprint,
            "model_name": self.model_name,
            **self.looks.described(),
            "temperature": self.temperature,
        }

    def close(self) -> None:
        """Frees the memory of the network."""
        self.session.close()

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(self, output: tf.Tensor, images: np.ndarray) -> np.ndarray:
        """Evaluates a tensor of the graph for `images`, which are as `probabilities` takes them.

        Raises:
            UserError: There is not enough memory for so many, or a number is too large for the arithmetic.
        """
        with enough_memory():
            values = self.session.run(output, {self.images: images})
        if not np.isfinite(values).all():
            raise UserError(
                f"{self.checkpoint} answers with what is no number in {self.device.arithmetic}; give "
                "--precision=float32 where that is another, or take another checkpoint"
            )
        return values

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of each label.

        Args:
            images: float32 [n, image_size, image_size, 3], RGB, range [0, 255], as `preprocessing.evaluation_image`
                makes them; n is any number.

        Returns:
            float32 [n, labels]; rows add up to 1.

        Raises:
            UserError: See `run`.
        """
        return self.run(self.output, images)


def open_classifier(
    checkpoint_path: str | Path,
    model_name: str | None = None,
    image_size: int | None = None,
    dataset_dir: Path | None = None,
    calibrated: bool = True,
    device: Device = DEFAULT_DEVICE,
) -> Classifier:
    """Returns the classifier that the flags of a script mean.

    Args:
        checkpoint_path: A checkpoint, or a folder for its newest.
        model_name: None for the network in the flags.json beside the checkpoint, without that for the one whose
            variables it has.
        image_size: Side of the input, pixels, for one look; None for what the training run says: its
            --eval_image_sizes, its --train_image_size, or the network's own.
        dataset_dir: Folder with labels.txt; None for the one beside the checkpoint.
        calibrated: With the temperature saved beside the checkpoint, if there is one.
        device: Where to run, and in what precision.

    Raises:
        UserError: No such checkpoint or labels, or they do not belong together.
    """
    checkpoint = checkpoints.newest(checkpoint_path)
    label_names = checkpoints.label_names(checkpoint, dataset_dir)
    trained_with = checkpoints.settings(checkpoint)
    model_name = model_name or trained_with.get("model_name") or checkpoints.recognise(checkpoint)
    if model_name not in registry.NETWORKS:
        raise UserError(f"{checkpoint} was trained on {model_name}, which is not a network here; give --model_name")
    if not trained_with and image_size is None:
        image_size = registry.NETWORKS[model_name].image_size
        notice(
            f"no {checkpoints.SETTINGS_FILENAME} beside {checkpoint}; assuming {model_name}, trained at "
            f"{image_size} x {image_size} pixels. If that is not so, the answers are wrong: give --eval_image_size"
        )
    sizes = (not image_size and trained_with.get("eval_image_sizes")) or []
    image_size = (
        image_size
        or max(sizes, default=0)
        or trained_with.get("train_image_size")
        or registry.NETWORKS[model_name].image_size
    )
    looks = Looks(
        image_size,
        sizes,
        trained_with.get("eval_central_fraction", CENTRAL_FRACTION),
        trained_with.get("records", {}).get("max_side", MAX_SIDE),
    )
    temperature = read_temperature(checkpoint, looks.described()) if calibrated else 1.0
    return Classifier(checkpoint, model_name, looks, label_names, temperature, device)


class Answers(NamedTuple):
    """What a classifier says of pictures whose labels are known."""

    truth: np.ndarray  # int64 [n].
    probabilities: np.ndarray  # float32 [n, labels].
    names: list[str]  # The pictures' paths below met_art.


def answer_columns(count: int) -> list[str]:
    """Returns the names of the columns that `answer_cells` fills, for so many answers."""
    return [column for rank in range(1, count + 1) for column in (f"answer_{rank}", f"probability_{rank}")]


def answer_cells(answers: Iterable[tuple[str, float]]) -> list[str]:
    """Returns labels and their probabilities as a CSV file has them."""
    return [cell for label, probability in answers for cell in (label, f"{probability:.6g}")]


def printable(name: str) -> str:
    """Returns the name of a picture on one line, with escapes for what a terminal would obey or a font lacks."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda match: repr(match[0])[1:-1], name)


def predict(
    classifier: Classifier, dataset: slim.dataset.Dataset, batch_size: int, max_num_batches: int | None = None
) -> Answers:
    """Answers for every picture of a data set once, in the order of the records.

    Raises:
        UserError: A records file is damaged.
    """
    num_pictures = min(dataset.num_samples, batch_size * (max_num_batches or dataset.num_samples))
    data = input_pipeline.evaluation_arrays(dataset, batch_size, classifier.looks, max_num_batches)
    truth: list[np.ndarray] = []
    probabilities: list[np.ndarray] = []
    names: list[str] = []
    with Progress("evaluating", num_pictures, "pictures") as progress:
        for images, labels, of_batch in data:
            if labels.max() >= len(classifier.label_names):
                input_pipeline.raise_damaged(dataset.data_sources, dataset.num_classes)
                raise UserError(f"{classifier.checkpoint} has fewer labels than these records; it is of another set")
            truth.append(labels)
            probabilities.append(classifier.probabilities(images))
            names += of_batch
            progress.update(len(labels))
    return Answers(np.concatenate(truth), np.concatenate(probabilities), names)


def read_temperature(checkpoint: str, looks: Mapping[str, Any]) -> float:
    """Returns the temperature fitted for a checkpoint, 1.0 where none was for answers with these `Looks`.

    Raises:
        UserError: The file with it is damaged, or about other weights.
    """
    path = Path(checkpoint + TEMPERATURE_SUFFIX)
    if not path.is_file():
        return 1.0
    try:
        fitted = read_json(path)
        temperature = float(fitted["temperature"])
        if not 0 < temperature < float("inf"):
            raise ValueError
        fitted_to = fitted.get("checkpoint_fingerprint")
        other = [name for name, value in looks.items() if fitted.get(name, value) != value]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged; delete it, or fit it again with eval_image_classifier.py") from None
    if fitted_to is None:
        notice(f"{path} does not say which weights it was fitted to; assuming those beside it")
    elif fitted_to != checkpoints.fingerprint(checkpoint):
        raise UserError(
            f"{path} was fitted to other weights than those of {checkpoint}; delete it, or fit it again with "
            "eval_image_classifier.py --calibrate"
        )
    for name in other:
        notice(
            f"{path} was fitted with {name.replace('_', ' ')} {fitted[name]}, not {looks[name]}; the answers "
            "are not calibrated"
        )
    return 1.0 if other else temperature


def write_temperature(classifier: Classifier, temperature: float, records_fingerprint: str | None) -> str:
    """Saves a temperature beside its checkpoint, with what it was fitted to, and returns the path."""
    path = classifier.checkpoint + TEMPERATURE_SUFFIX
    fitted_to = {
        "checkpoint_fingerprint": classifier.fingerprint,
        "records_fingerprint": records_fingerprint,
        **classifier.looks.described(),
    }
    with open_replacing(path) as file:
        json.dump({"temperature": temperature, **fitted_to}, file)
    return path
