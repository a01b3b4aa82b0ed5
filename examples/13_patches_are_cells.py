"""In what sense is patchwise training loss sampling? A mask on the loss leaves the gradient of the patches kept."""

import numpy as np

from minifcn import Tensor, fcn, models, ops

dense = fcn.convolutionalize(models.lenet(10))  # unpadded: its cells see patches of 32×32, 4 pixels apart
image = np.random.default_rng(0).standard_normal((1, 1, 40, 36)).astype(np.float32)
labels = np.array([[[3, 1], [4, 1], [5, 9]]])
draws = np.random.default_rng


def gradient(loss):
    dense.zero_grad()
    loss.backward()
    return dense["conv1"].weight.grad


whole = gradient(fcn.sample_loss(dense(Tensor(image)), labels, 0.5, draws(1)))
kept = np.argwhere(fcn.sample_labels(labels, 0.5, draws(1)) != 255)
patches = np.concatenate([image[:, :, 4 * i : 4 * i + 32, 4 * j : 4 * j + 32] for _, i, j in kept])
patchwise = gradient(ops.cross_entropy(dense(Tensor(patches)), labels[tuple(kept.T)].reshape(-1, 1, 1)))
print(len(kept), "of 6 patches; same gradient:", np.allclose(whole, patchwise, rtol=1e-4, atol=1e-6))
