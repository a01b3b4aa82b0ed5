"""Running a trained net: the classes of one image, and the scores over a data set (FCN §5)."""

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from minifcn.data.dataset import Dataset
from minifcn.nn import Module, evaluating
from minifcn.nn.module import device_of
from minifcn.tensor import Tensor, no_grad
from minifcn.training.metrics import confusion_matrix
from minifcn_kernels.jit import Array


def predict(net: Module, image: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the class with the highest score, the lowest of equals: for every pixel, or for the whole image.

    The net runs in evaluation mode and records nothing; afterwards its modules are in the modes they were in.

    Args:
        net: gives the scores of K classes, (N, K, H, W), or as a classifier (N, K).
        image: (C, H, W).

    Returns:
        (H, W), or shape () from a classifier.
    """
    return np.asarray(_scores(net, image).argmax(axis=0), np.int64)  # (K, H, W) -> (H, W)


def evaluate(net: Module, dataset: Dataset, *, progress: bool = False) -> npt.NDArray[np.int64]:
    """Return one confusion matrix (K, K) over all examples, for `metrics.scores`; K is the number of classes.

    Images may differ in size, since they are run one by one. ``progress`` shows a bar on stderr.

    Raises:
        ValueError: the net scores another number of classes, or no pixel has a label (an empty data set has none).
    """
    K = len(dataset.classes)
    confusion = np.zeros((K, K), np.int64)
    for index in tqdm(range(len(dataset)), "evaluating", unit="image", leave=False, disable=not progress):
        example = dataset.example(index)
        scores = _scores(net, example.image)
        check_class_count(len(scores), dataset)
        confusion += confusion_matrix(example.label, np.asarray(scores.argmax(axis=0)), K)
    if not confusion.any():
        raise ValueError(
            f"evaluate: none of the {len(dataset)} examples has a labelled pixel, there is nothing to score"
        )
    return confusion


def check_class_count(scored: int, dataset: Dataset) -> None:
    """Raise a ValueError unless a net that scores so many classes fits ``dataset``."""
    if scored != len(dataset.classes):
        raise ValueError(
            f"the net scores {scored} classes, but the data set has {len(dataset.classes)} "
            f"({', '.join(dataset.classes)}): build the net with num_classes={len(dataset.classes)}"
        )


def _scores(net: Module, image: npt.NDArray[np.float32]) -> Array:
    with evaluating(net), no_grad():
        logits: Tensor = net(Tensor(image[None]).to(device_of(net)))
    return logits.to("cpu").numpy()[0]
