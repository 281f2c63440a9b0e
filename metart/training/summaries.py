"""What TensorBoard shows of a run, written as event files."""

from collections.abc import Iterable, Sequence
import io
import os
import time

import numpy as np
from PIL import Image

from metart.networks.slim_compat import tf


class Summaries:
    """Writes one event file in a folder; TensorBoard reads it while the run goes on. Without a folder, nothing."""

    def __init__(self, folder: str | os.PathLike[str] | None):
        self._writer = None
        if folder:
            suffix = f".{time.time_ns()}"  # Without it, a second file of the same second would replace the first.
            with tf.Graph().as_default():  # FileWriter refuses to work outside graph mode.
                self._writer = tf.compat.v1.summary.FileWriter(os.fspath(folder), filename_suffix=suffix)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds one point to the curve of each name."""
        summary = tf.compat.v1.Summary()
        for name, value in values.items():
            summary.value.add(tag=name, simple_value=value)
        self._write(step, summary)

    def validation(self, step: int, figures: dict[str, float]) -> None:
        """Adds what a checkpoint reached on the validation split."""
        self.scalars(step, {f"validation/{name}": value for name, value in figures.items()})

    def pictures(self, step: int, pictures: Iterable[np.ndarray], captions: Sequence[str]) -> None:
        """Adds pictures, each uint8 [height, width, 3], RGB, under its caption."""
        summary = tf.compat.v1.Summary()
        for picture, caption in zip(pictures, captions, strict=True):
            encoded = io.BytesIO()
            Image.fromarray(picture).save(encoded, "PNG")
            image = tf.compat.v1.Summary.Image(
                height=picture.shape[0], width=picture.shape[1], colorspace=3, encoded_image_string=encoded.getvalue()
            )
            summary.value.add(tag=caption, image=image)
        self._write(step, summary)

    def _write(self, step: int, summary: tf.compat.v1.Summary) -> None:
        if self._writer:
            self._writer.add_summary(summary, step)
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()
