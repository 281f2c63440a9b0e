"""A trained network that answers: probabilities of the labels for batches of images."""

import numpy as np

from slim_compat import slim, tf
import checkpoints
import networks


class Classifier:
    """A network with the weights of a checkpoint, frozen for inference."""

    def __init__(self, checkpoint: str, model_name: str, image_size: int, label_names: list[str], use_gpu: bool = True):
        """Builds the network and loads the weights; their moving averages where the checkpoint has them.

        Raises:
            UserError: The checkpoint is damaged, of another network or of another number of labels.
        """
        self.image_size = image_size
        self.label_names = label_names
        with tf.Graph().as_default():
            self._images = tf.compat.v1.placeholder(tf.float32, [None, image_size, image_size, 3], name="images")
            logits, _ = networks.build(model_name, self._images, len(label_names))
            self._probabilities = tf.nn.softmax(logits, name="probabilities")
            variables = slim.get_model_variables()
            checkpoints.check(checkpoint, variables, model_name, len(label_names))
            config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
            config.gpu_options.allow_growth = True
            if not use_gpu:
                config.device_count["GPU"] = 0
            self._session = tf.compat.v1.Session(config=config)
            saver = tf.compat.v1.train.Saver(checkpoints.averaged(checkpoint, variables))
            checkpoints.restore(self._session, saver, checkpoint)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of each label.

        Args:
            images: float32 [n, image_size, image_size, 3], RGB, range [0, 255], as `images.evaluation_image` makes
                them; n is any number.

        Returns:
            float32 [n, labels]; rows add up to 1.
        """
        return self._session.run(self._probabilities, {self._images: images})


def open_classifier(
    checkpoint_path: str, model_name: str | None, image_size: int | None, dataset_dir: str | None, use_gpu: bool = True
) -> Classifier:
    """Returns the classifier that the flags of a script mean.

    Args:
        checkpoint_path: A checkpoint, or a folder for its newest.
        model_name: None for the network in the flags.json beside the checkpoint, inception_v3 without that.
        image_size: Side of the input, pixels; None for the size it was trained with, or the network's own.
        dataset_dir: Folder with labels.txt; None for the one beside the checkpoint.
        use_gpu: False keeps to the CPU.

    Raises:
        UserError: No such checkpoint or labels, or they do not belong together.
    """
    checkpoint = checkpoints.newest(checkpoint_path)
    label_names = checkpoints.label_names(checkpoint, dataset_dir)
    trained_with = checkpoints.settings(checkpoint)
    model_name = model_name or trained_with.get("model_name", "inception_v3")
    image_size = image_size or trained_with.get("train_image_size") or networks.NETWORKS[model_name].image_size
    return Classifier(checkpoint, model_name, image_size, label_names, use_gpu)
