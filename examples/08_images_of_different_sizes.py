"""May images of different sizes be in one batch? Not in one array, but in one step."""

import numpy as np

from minifcn import Tensor, fcn, models, training

net = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(21)), 21, stride=8).eval()
print([net(Tensor(np.zeros((1, 3, *size), np.float32))).shape[2:] for size in ((1, 1), (37, 90), (120, 64))])
print(training.TrainConfig(steps=100, lr=0.05, batch_size=1, accumulate=20).accumulate, "images of any sizes a step")
