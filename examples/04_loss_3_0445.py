"""Why is the loss stuck at 3.0445? It is ln 21: all scores are equal. And what prints a net of one answer?"""

import numpy as np

from minifcn import Tensor, ops
from minifcn.training import metrics

labels = np.random.default_rng(0).choice(21, (1, 100, 100), p=[0.73, *[0.27 / 20] * 20])
print(f"{ops.cross_entropy(Tensor(np.zeros((1, 21, 100, 100))), labels).item():.4f}")
a = (labels == 0).mean()
scores = metrics.scores(metrics.confusion_matrix(labels, np.zeros_like(labels), 21))
print(np.round([scores.pixel_accuracy, scores.mean_accuracy, scores.mean_iu, scores.frequency_weighted_iu], 4))
print(np.round([a, 1 / 21, a / 21, a**2], 4))
