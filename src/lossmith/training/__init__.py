"""One training run: batches, step, loop, prediction; loss parameters tuned through training."""

from lossmith.training.loop import train
from lossmith.training.prediction import Predictions, predict
from lossmith.training.process import compute_scope
from lossmith.training.run_record import Trained, Training
from lossmith.training.unroll import Tuned, tune

__all__ = ["Predictions", "Trained", "Training", "Tuned", "compute_scope", "predict", "train", "tune"]
