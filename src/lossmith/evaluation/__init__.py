"""How good a loss is: the plan, screens, tuning, training, many of them on workers, seeds, learning-rate tuning."""

from lossmith.evaluation.chunks import divide, stacking_key
from lossmith.evaluation.devices import check_device, check_dtype, gpus_for
from lossmith.evaluation.engine_choice import make_plan
from lossmith.evaluation.evaluate import evaluate, evaluate_chunk
from lossmith.evaluation.executors import AnyExecutor, Executor, make_executor
from lossmith.evaluation.learning_rate import TunedLearningRate, tune_learning_rate, tune_learning_rates
from lossmith.evaluation.plan import Plan
from lossmith.evaluation.rolling import Rolling
from lossmith.evaluation.runner import run_requests
from lossmith.evaluation.screens import Screened, screen
from lossmith.evaluation.seeds import Standing, mean_fitness, seed_block, top
from lossmith.evaluation.worker_memory import AllCores, count_workers

__all__ = [
    "AllCores",
    "AnyExecutor",
    "Executor",
    "Plan",
    "Rolling",
    "Screened",
    "Standing",
    "TunedLearningRate",
    "check_device",
    "check_dtype",
    "count_workers",
    "divide",
    "evaluate",
    "evaluate_chunk",
    "gpus_for",
    "make_executor",
    "make_plan",
    "mean_fitness",
    "run_requests",
    "screen",
    "seed_block",
    "stacking_key",
    "top",
    "tune_learning_rate",
    "tune_learning_rates",
]
