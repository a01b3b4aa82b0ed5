"""Weights that others trained: files of arrays, and what they are called elsewhere.

Two families of names are known, each with its way to give pixels to a net (`Pixels`):

- **FCNs** as the common PyTorch port of the released nets names them: ``conv1_1.weight`` … ``fc6.weight``,
  ``fc7.weight``, ``score_fr.weight``, ``score_pool4.weight``, ``upscore2.weight`` …; channels BGR, means taken off.
- **Classifiers** as torchvision names them: ``features.0.weight`` … ``classifier.6.weight``; channels RGB, means taken
  off, divided by standard deviations.
"""

from minifcn.weights.files import WeightsError, read
from minifcn.weights.load import load
from minifcn.weights.pixels import CAFFE, TORCHVISION, Pixels

__all__ = ["CAFFE", "TORCHVISION", "Pixels", "WeightsError", "load", "read"]
