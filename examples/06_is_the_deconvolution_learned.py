"""Is the deconvolution learned? The last one never; the ones before it may be, and begin bilinear."""

import numpy as np

from minifcn import Tensor, fcn, models

for upsampling in ("fixed", "learned"):
    net = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(21)), 21, stride=16, upsampling=upsampling)
    for name, layer in net.upsample.named_children():
        print(upsampling, name, layer.weight.shape, "trained" if layer.weight.requires_grad else "fixed")

row = fcn.bilinear_upsampling(1, (1, 3), (1, 2))
print(row(Tensor(np.array([[[[0, 4, 8, 0]]]], np.float32))).data.ravel())
