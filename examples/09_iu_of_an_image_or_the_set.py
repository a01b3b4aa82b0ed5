"""Is IU averaged over images, or taken over the set? Over the set: one confusion matrix, all four metrics of it."""

import numpy as np

from minifcn.training import metrics

mask = np.array([[0, 0, 0, 0, 0, 0, 0, 1]])
right, wrong = mask, np.zeros_like(mask)
large = metrics.confusion_matrix(np.tile(mask, (50, 1)), np.tile(right, (50, 1)), 2)
small = metrics.confusion_matrix(mask, wrong, 2)
print(f"over the set {metrics.mean_iu(large + small):.3f}")
print(f"mean of images {(metrics.mean_iu(large) + metrics.mean_iu(small)) / 2:.3f}")
