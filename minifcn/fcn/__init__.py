"""The paper, a file per section: convolutionalize (§3.1), geometry and skips (§4.2)."""

from minifcn.fcn import geometry
from minifcn.fcn.convolutionalize import convolutionalize
from minifcn.fcn.inspection import LayerRow, Summary, inspect, summarize
from minifcn.fcn.scales import feature_scales
from minifcn.fcn.skip import FCN

__all__ = [
    "FCN",
    "LayerRow",
    "Summary",
    "convolutionalize",
    "feature_scales",
    "geometry",
    "inspect",
    "summarize",
]
