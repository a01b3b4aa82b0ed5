"""Prove the gradients of layers of your own: everything this project's own tests are made of.

``minifcn.testing.strategies`` draws geometries and arrays for Hypothesis; it alone needs the extra ``testing``.
"""

from minifcn.testing import data
from minifcn.testing.adjoint import check_adjoint
from minifcn.testing.backends import check_backends
from minifcn.testing.failure import AdjointError, BackendError, GradientError, KinkError
from minifcn.testing.gradients import check_gradients, check_ties

__all__ = [
    "AdjointError",
    "BackendError",
    "GradientError",
    "KinkError",
    "check_adjoint",
    "check_backends",
    "check_gradients",
    "check_ties",
    "data",
]
