"""The paper, a file per section.

Convolutionalize (§3.1), stitch (§3.2), upsample (§3.3), sampling (§3.4), geometry and skips (§4.2), streams (§5).
"""

from minifcn.fcn import geometry
from minifcn.fcn.convolutionalize import convolutionalize
from minifcn.fcn.inspection import LayerRow, Summary, inspect, summarize
from minifcn.fcn.sampling import images_per_batch, sample_labels, sample_loss
from minifcn.fcn.scales import feature_scales
from minifcn.fcn.skip import FCN
from minifcn.fcn.stitch import rarefy, shift_and_stitch
from minifcn.fcn.streams import LateFusion, MultiTask
from minifcn.fcn.upsample import bilinear_upsampling

__all__ = [
    "FCN",
    "LateFusion",
    "LayerRow",
    "MultiTask",
    "Summary",
    "bilinear_upsampling",
    "convolutionalize",
    "feature_scales",
    "geometry",
    "images_per_batch",
    "inspect",
    "rarefy",
    "sample_labels",
    "sample_loss",
    "shift_and_stitch",
    "summarize",
]
