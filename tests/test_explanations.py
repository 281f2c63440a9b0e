from pathlib import Path

from conftest import LABEL_COLOURS, MODEL_NAME
import numpy as np
from PIL import Image
import pytest

from metart.networks.slim_compat import tf
import arts
import classify
from metart.common.flags import UserError
from metart.evaluation.explanations import Explainer, _file_name, _last_feature_map
from metart.evaluation.inference import Classifier, open_classifier
from metart.networks import registry
from metart.networks.preprocessing import Looks
from metart.training import input_pipeline

IMAGE_SIZE = 64  # Leaves 2 x 2 places of the last feature map.


@pytest.fixture(scope="module")
def classifier(train_dir: Path) -> Classifier:
    return open_classifier(str(train_dir), image_size=IMAGE_SIZE)


@pytest.fixture(scope="module")
def explainer(classifier: Classifier, dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    return Explainer(
        classifier, tmp_path_factory.mktemp("pages"), arts.get_split("train", dataset_dir), None, batch_size=5
    )


def training_images(dataset_dir: Path) -> tuple[np.ndarray, list[str]]:
    data = input_pipeline.evaluation_batches(arts.get_split("train", dataset_dir).data_sources, 1000, IMAGE_SIZE)
    images, _, names = next(data.as_numpy_iterator())
    return images, [name.decode() for name in names]


def test_a_training_picture_is_nearest_to_itself_and_near_to_its_label(explainer: Explainer, dataset_dir: Path) -> None:
    images, names = training_images(dataset_dir)
    nearest = explainer.nearest(images)
    assert nearest[:, 0].tolist() == list(range(len(images)))
    same = [names[index].split("/")[0] == names[row[1]].split("/")[0] for index, row in enumerate(nearest)]
    assert np.mean(same) > 0.8
    features = explainer.features(images)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    # By hand: the least distance between vectors of length 1 is the largest product.
    distances = ((features[:, None] - features[None]) ** 2).sum(axis=-1)
    np.testing.assert_allclose(
        np.take_along_axis(distances, nearest, axis=1), np.sort(distances, axis=1)[:, : nearest.shape[1]], atol=1e-5
    )


def test_heat_is_grad_cam(classifier: Classifier, explainer: Explainer, dataset_dir: Path) -> None:
    """The gradients of Grad-CAM, by finite differences: a place counts by what the logit gains from it."""
    images, _ = training_images(dataset_dir)
    heat = explainer.heat(images[:4])
    assert heat.dtype == np.float32
    assert heat.min() >= 0
    assert heat.max() == 1
    features = _last_feature_map(classifier.logits)
    feed = {classifier.images: images[:1]}
    values, logits = classifier.session.run([features, classifier.logits], feed)
    best = int(logits[0].argmax())
    gains = np.zeros_like(values[0, 0, 0])
    for depth in range(len(gains)):
        # The head is linear after pooling, so a step of any size gives the slope; all places at once, their mean.
        raised = values.copy()
        raised[..., depth] += 1
        higher = classifier.session.run(classifier.logits, {**feed, features: raised})
        gains[depth] = (higher[0, best] - logits[0, best]) / values[0, :, :, 0].size
    expected = np.maximum((values[0] * gains).sum(axis=-1), 0)
    np.testing.assert_allclose(heat[0], expected / max(expected.max(), 1e-30), atol=1e-2)


def test_heat_is_of_the_label_that_the_mean_over_the_looks_has_chosen(train_dir: Path, tmp_path: Path) -> None:
    # From one label's colour to the next, so that some lie where the looks disagree.
    colours = np.array(list(LABEL_COLOURS.values()), np.float32)
    shares = np.linspace(0, 1, 200, dtype=np.float32)[:, None, None, None]
    between = [colours[label] * (1 - shares) + colours[label - 1] * shares for label in range(3)]
    images = np.concatenate(between).repeat(40, 1).repeat(40, 2)
    names = [str(number) for number in range(3)]
    checkpoint = str(train_dir / "model.ckpt-20")
    with Classifier(checkpoint, MODEL_NAME, Looks(40, [32, 40]), names) as averaging:
        answers = averaging.probabilities(images).argmax(axis=1)
        once = averaging.session.run(averaging.logits, {averaging.images: images}).argmax(axis=1)
        (differing,) = np.nonzero(answers != once)
        assert len(differing)  # Otherwise this test shows nothing.
        heat = Explainer(averaging, tmp_path, None, None, 1).heat(images[differing])
        features = _last_feature_map(averaging.logits)
        with averaging.session.graph.as_default():
            slopes = [tf.gradients(averaging.logits[:, label], features)[0] for label in range(3)]
        values, *slopes = averaging.session.run([features, *slopes], {averaging.images: images[differing]})
    for position, label in enumerate(answers[differing]):
        expected = (values[position] * slopes[label][position].mean(axis=(0, 1))).sum(axis=-1).clip(0)
        np.testing.assert_allclose(heat[position], expected / max(expected.max(), 1e-30), atol=1e-3)


@pytest.mark.parametrize(
    ("model_name", "size", "shape"),
    [
        ("inception_v4", 299, [8, 8, 1536]),  # Its head is no convolution.
        ("mobilenet_v3_small", 224, [7, 7, 576]),  # It has a layer between the pooling and the head.
        ("resnet_v2_50", 224, [7, 7, 2048]),
        ("vgg_16", 224, [7, 7, 512]),
        ("wide_resnet_10_4_x2", 64, [4, 4, 512]),  # Of both networks.
    ],
)
def test_every_kind_of_network_has_a_feature_map(model_name: str, size: int, shape: list[int]) -> None:
    with tf.Graph().as_default():
        images = tf.compat.v1.placeholder(tf.float32, [None, size, size, 3])
        logits, _ = registry.build(model_name, images, 5)
        assert _last_feature_map(logits).shape.as_list() == [None, *shape]


def test_the_name_of_a_page_fits_every_file_system() -> None:
    name = _file_name(f"https://example.org/a?b/{'彩' * 82}.jpg")  # 250 bytes, which a picture's name may have.
    assert name == f"{'彩' * 32}.jpg"


def test_a_page_for_each_picture(
    train_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = sorted((dataset_dir / "met_art" / "Chinese").iterdir())[:2]
    flags = [f"--checkpoint_path={train_dir}", f"--dataset_dir={dataset_dir}", f"--explain_dir={tmp_path}/pages"]
    classify.main([*flags, "--image_file", *map(str, pictures)])
    names = {"training-features.npz", *(f"{number:04}-{each.name}.png" for number, each in enumerate(pictures, 1))}
    assert {file.name for file in (tmp_path / "pages").iterdir()} == names
    with Image.open(tmp_path / "pages" / f"0001-{pictures[0].name}.png") as page:
        assert page.width > 2 * page.height
    assert "looking at the training pictures" in capsys.readouterr().err
    classify.main([*flags, "--image_file", *map(str, pictures)])  # The second time they are known.
    assert "looking at the training pictures" not in capsys.readouterr().err
    features = tmp_path / "pages" / "training-features.npz"
    whole = features.read_bytes()
    for spoilt in (b"", whole[:500], b"no archive"):
        features.write_bytes(spoilt)
        classify.main([*flags, "--image_file", *map(str, pictures)])
        assert "looking at the training pictures" in capsys.readouterr().err
        assert features.read_bytes() == whole


def test_pages_are_not_classified_the_next_time(train_dir: Path, dataset_dir: Path) -> None:
    folder = dataset_dir / "met_art" / "Chinese"
    flags = [f"--checkpoint_path={train_dir}", f"--image_file={folder}"]
    for explain_dir in (folder, folder / "pages", folder.parent / "Chinese" / "new" / "pages"):
        with pytest.raises(UserError, match=f"--explain_dir={explain_dir} is in {folder}, whose pictures are"):
            classify.main([*flags, f"--explain_dir={explain_dir}"])


def test_without_records_a_page_shows_the_places_alone(train_dir: Path, dataset_dir: Path, tmp_path: Path) -> None:
    picture = sorted((dataset_dir / "met_art" / "Chinese").iterdir())[0]
    classify.main([f"--checkpoint_path={train_dir}", f"--explain_dir={tmp_path}", f"--image_file={picture}"])
    assert [file.name for file in tmp_path.iterdir()] == [f"0001-{picture.name}.png"]
