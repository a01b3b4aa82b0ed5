"""Classifiers, as in their papers: each an `nn.Sequential` with named layers and the taps that an FCN scores."""

from minifcn.models.alexnet import alexnet
from minifcn.models.googlenet import googlenet
from minifcn.models.lenet import lenet
from minifcn.models.vgg import tiny_vgg, vgg16

__all__ = ["alexnet", "googlenet", "lenet", "tiny_vgg", "vgg16"]
