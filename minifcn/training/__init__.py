"""Training and evaluation: the solver, the loop, the paper's metrics, and checkpoints that survive anything."""

from minifcn.training import checkpoint, metrics, regimes
from minifcn.training.checkpoint import CheckpointError
from minifcn.training.config import TrainConfig
from minifcn.training.diagnosis import Finding, diagnose
from minifcn.training.evaluation import evaluate, predict
from minifcn.training.sgd import SGD
from minifcn.training.trainer import Interrupted, Trainer, TrainResult

__all__ = [
    "SGD",
    "CheckpointError",
    "Finding",
    "Interrupted",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "checkpoint",
    "diagnose",
    "evaluate",
    "metrics",
    "predict",
    "regimes",
]
