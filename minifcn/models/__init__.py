"""Classifiers, as in their papers: each an `nn.Sequential` with named layers and the taps that an FCN scores."""

from minifcn.models.lenet import lenet
from minifcn.models.vgg import tiny_vgg

__all__ = ["lenet", "tiny_vgg"]
