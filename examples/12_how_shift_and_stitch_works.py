"""How does shift-and-stitch work? f² shifted runs, interlaced, are one run with stride 1 and dilated filters."""

import numpy as np

from minifcn import Tensor, fcn, nn

strided = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.AvgPool2d(2))
x = Tensor(np.random.default_rng(0).standard_normal((1, 3, 24, 21)).astype(np.float32))
stitched, rarefied = fcn.shift_and_stitch(strided, x), fcn.rarefy(strided)(x)
print(strided(x).shape, stitched.shape, np.abs(stitched.data - rarefied.data).max() < 1e-5)
print([layer.window().dilation for _, layer in fcn.rarefy(strided).named_children()])
