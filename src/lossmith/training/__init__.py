"""One training run: batches, step, loop, prediction."""

from lossmith.training.loop import Trained, Training, train
from lossmith.training.prediction import Predictions, predict
from lossmith.training.process import compute_scope

__all__ = ["Predictions", "Trained", "Training", "compute_scope", "predict", "train"]
