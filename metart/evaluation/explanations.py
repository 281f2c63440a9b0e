"""Why a picture got its label: the places that led to it (Grad-CAM), and the training pictures most like it."""

from collections.abc import Sequence
import contextlib
from pathlib import Path
import re
import zipfile

import numpy as np

from metart.networks.slim_compat import slim, tf
from metart.common.files import make_folder, open_replacing
from metart.common.progress import Progress
from metart.evaluation import reports
from metart.evaluation.inference import Classifier, printable
from metart.networks import registry
from metart.training import input_pipeline

FEATURES_FILENAME = "training-features.npz"
NEIGHBOURS = 5


class Explainer:
    """Writes a page for each picture that a classifier answered."""

    def __init__(
        self,
        classifier: Classifier,
        folder: Path,
        training: slim.dataset.Dataset | None,
        records_fingerprint: str | None,
        batch_size: int,
    ):
        """Looks at all training pictures once, if there are any; the folder keeps what it saw for the next run.

        Args:
            classifier: Its graph gets the operations that explain.
            folder: Gets a PNG file for each picture.
            training: The pictures to find similar ones among.
            records_fingerprint: Of their set; None for records without splits.json.
            batch_size: Training pictures to look at together.
        """
        self._classifier = classifier
        self._folder = folder
        self._pages = 0
        make_folder(folder)
        with classifier.session.graph.as_default():
            features = _last_feature_map(classifier.logits)
            # One look, but the label that the mean over all looks has chosen.
            best = tf.gather(classifier.logits, tf.argmax(classifier.output, axis=1), batch_dims=1)
            weights = tf.reduce_mean(tf.gradients(best, features)[0], axis=[1, 2], keepdims=True)
            self._heat = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))
            self._features = tf.math.l2_normalize(tf.reduce_mean(features, axis=[1, 2]), axis=-1)
        self._training = training
        self._records_fingerprint = records_fingerprint
        if training is not None:
            self._training_features, self._training_names = self._look_at_training_pictures(training, batch_size)

    def write(self, images: np.ndarray, pictures: Sequence[str]) -> None:
        """Writes a page for each image: itself, the places that led to the answer, its nearest training pictures.

        Args:
            images: float32 [n, image_size, image_size, 3], RGB, range [0, 255].
            pictures: Paths or addresses of them; a page is `<running number>-<file name>.png`.
        """
        neighbours = [[] for _ in pictures] if self._training is None else self._neighbours(images, self._training)
        heat, probabilities = self.heat(images), self._classifier.probabilities(images)
        for index, picture in enumerate(pictures):
            best = int(probabilities[index].argmax())
            shown = printable(picture).encode(errors="replace").decode()  # A file name may be no text.
            answer = self._classifier.label_names[best], float(probabilities[index, best])
            image = images[index].clip(0, 255).astype(np.uint8)
            figure = reports.explanation_figure(image, heat[index], neighbours[index], shown, answer)
            self._pages += 1
            reports.save(figure, self._folder / f"{self._pages:04}-{_file_name(picture)}.png")

    def heat(self, images: np.ndarray) -> np.ndarray:
        """Returns how much each place contributed to the best answer, by Grad-CAM (Selvaraju et al., 2017).

        Returns:
            float32 [n, height, width] of the last feature map, range [0, 1], the strongest place of each image 1; all
            0 where nothing contributed.
        """
        heat = self._classifier.run(self._heat, images)
        return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)

    def nearest(self, images: np.ndarray) -> np.ndarray:
        """Returns the positions of the most similar training pictures, int64 [n, NEIGHBOURS], the nearest first."""
        similarity = self.features(images) @ self._training_features.T
        return np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS]

    def _neighbours(self, images: np.ndarray, training: slim.dataset.Dataset) -> list[list[tuple[np.ndarray, str]]]:
        """Returns (picture uint8 [height, width, 3], name) of the nearest training pictures of each image."""
        nearest = self.nearest(images)
        positions = np.unique(nearest).tolist()
        pictures = dict(zip(positions, input_pipeline.pictures_at(training.data_sources, positions), strict=True))
        return [[(pictures[each], self._training_names[each]) for each in row] for row in nearest.tolist()]

    def features(self, images: np.ndarray) -> np.ndarray:
        """Returns what the network saw in each image, float32 [n, depth], of length 1."""
        return self._classifier.run(self._features, images)

    def _look_at_training_pictures(
        self, training: slim.dataset.Dataset, batch_size: int
    ) -> tuple[np.ndarray, list[str]]:
        """Returns (features [n, depth], names [n]) of the training pictures; an earlier run's, if its file fits."""
        path = self._folder / FEATURES_FILENAME
        records = self._records_fingerprint or [
            (file, Path(file).stat().st_size, Path(file).stat().st_mtime_ns) for file in training.data_sources
        ]
        classifier = self._classifier
        made_of = repr(
            [classifier.fingerprint, classifier.device.arithmetic, classifier.model_name, classifier.looks, records]
        )
        with contextlib.suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile), np.load(path) as saved:
            if str(saved["made_of"]) == made_of:  # Otherwise, or where the file is missing or damaged, it is made anew.
                return saved["features"], saved["names"].tolist()
        features: list[np.ndarray] = []
        names: list[str] = []
        data = input_pipeline.evaluation_arrays(training, batch_size, classifier.looks)
        with Progress("looking at the training pictures", training.num_samples, "pictures") as progress:
            for images, _, of_batch in data:
                features.append(self.features(images))
                names += of_batch
                progress.update(len(images))
        with open_replacing(path, "wb") as file:
            np.savez(file, made_of=made_of, features=np.concatenate(features), names=names)
        return np.concatenate(features), names


def _file_name(picture: str) -> str:
    """Returns the end of a path or address, at most 100 bytes in letters that every file system takes."""
    name = re.sub(r"[^\w.-]+", "_", picture.rpartition("/")[2])
    return name.encode()[-100:].decode(errors="ignore")


def _last_feature_map(logits: tf.Tensor) -> tf.Tensor:
    """Returns the last activation before the head that has places, [n, height, width, depth]."""
    tensor, _ = registry.head(logits)
    while tensor.shape.rank < 4 or tensor.shape[1] * tensor.shape[2] == 1:
        tensor = tensor.op.inputs[0]
    return tensor
