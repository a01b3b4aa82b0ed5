"""Does sampling balance the classes? Not with one p, which thins all alike; with a q_c for each class it does."""

import numpy as np

from minifcn import fcn

labels = np.random.default_rng(0).choice(3, (1, 300, 300), p=[0.8, 0.15, 0.05])
for keep in (1, 0.25, [0.0625, 1 / 3, 1]):
    kept = fcn.sample_labels(labels, keep, np.random.default_rng(1))
    counts = np.bincount(kept[kept != 255], minlength=3)
    print(keep, (counts / counts.sum()).round(2))
