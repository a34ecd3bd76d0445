"""Metrics: what a task is judged by. A metric needs no gradient; it has a direction and a standard error."""

from lossmith.tasks.metrics.classification import (
    accuracy,
    asymmetric_cost,
    balanced_error,
    error_rate,
    log_loss,
    macro_f1,
    top_k_error,
)
from lossmith.tasks.metrics.constant import best_constant
from lossmith.tasks.metrics.given import METRICS, metric, resolve
from lossmith.tasks.metrics.ranking import roc_auc
from lossmith.tasks.metrics.record import Metric
from lossmith.tasks.metrics.regression import mae, mse, quantile, r2

__all__ = [
    "METRICS",
    "Metric",
    "accuracy",
    "asymmetric_cost",
    "balanced_error",
    "best_constant",
    "error_rate",
    "log_loss",
    "macro_f1",
    "mae",
    "metric",
    "mse",
    "quantile",
    "r2",
    "resolve",
    "roc_auc",
    "top_k_error",
]
