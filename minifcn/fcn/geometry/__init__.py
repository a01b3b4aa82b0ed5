"""Where a net's outputs lie over the image: receptive fields, crops and the padding they need. FCN §3, §4.2.

A fully convolutional net pads the image, shrinks it, enlarges the scores again and crops them to the image.
Every crop offset follows from the coordinate maps of the layers (`minifcn.nn.coordinates`), because two maps
can be added, or compared with the image, only where their pixel centres coincide:

    path = target of the crop → cropped layer        its scale is 1: both have one resolution
    offset = shift of the path                       a whole number ≥ 0, or no crop aligns the two

The paper's net on VGG16 (conv1_1 pads 100, fc6 is 7×7, the last upsampling has kernel 64 and stride 32) has
the path x ↦ x + 19 from its input to its upsampled scores: the score of image pixel 0 is at 19, so the crop
begins there.
"""

from minifcn.fcn.geometry.explain import explain
from minifcn.fcn.geometry.layers import (
    GeometryError,
    coordinate_map,
    crop_offset,
    receptive_field,
    running_windows,
)
from minifcn.fcn.geometry.skips import Fusion, SkipPlan, minimum_padding, plan_skips

__all__ = [
    "Fusion",
    "GeometryError",
    "SkipPlan",
    "coordinate_map",
    "crop_offset",
    "explain",
    "minimum_padding",
    "plan_skips",
    "receptive_field",
    "running_windows",
]
