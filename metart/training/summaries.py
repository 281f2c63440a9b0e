"""What TensorBoard shows of a run, written as event files."""

from collections.abc import Iterable, Sequence
import io
import os
from pathlib import Path
import socket
import time
from typing import Any

import numpy as np
from PIL import Image

from metart.networks.slim_compat import tf
from metart.common.files import make_folder
from metart.networks import checkpoints


class Summaries:
    """Writes one event file in a folder; TensorBoard reads it while the run goes on. Without a folder, nothing.

    TensorFlow's own writer has a thread, which says in two tracebacks that the disk is full.

    Raises:
        UserError: The file cannot be written; from all methods.
    """

    def __init__(self, folder: str | os.PathLike[str] | None):
        self._writer = None
        if folder:
            make_folder(folder)
            now = time.time_ns()  # A second file of the same second must not replace the first.
            self._path = Path(folder) / f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}"
            with checkpoints.writing(self._path):
                self._writer = tf.io.TFRecordWriter(str(self._path))
            self._write(file_version="brain.Event:2")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds one point to the curve of each name."""
        summary = tf.compat.v1.Summary()
        for name, value in values.items():
            summary.value.add(tag=name, simple_value=value)
        self._write(step=step, summary=summary)

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
        self._write(step=step, summary=summary)

    def _write(self, **content: Any) -> None:
        if self._writer:
            event = tf.compat.v1.Event(wall_time=time.time_ns() / 1e9, **content)
            with checkpoints.writing(self._path):
                self._writer.write(event.SerializeToString())
                self._writer.flush()

    def close(self) -> None:
        if self._writer:
            with checkpoints.writing(self._path):
                self._writer.close()
