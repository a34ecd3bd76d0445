"""How good a loss is: the plan, screens, tuning, training, many of them on workers, seeds, learning-rate tuning."""

from lossmith.evaluation.evaluate import evaluate, evaluate_chunk
from lossmith.evaluation.executors import AnyExecutor, Executor, make_executor
from lossmith.evaluation.learning_rate import TunedLearningRate, tune_learning_rate
from lossmith.evaluation.plan import Plan, check_device, make_plan
from lossmith.evaluation.runner import run_requests
from lossmith.evaluation.screens import Screened, screen
from lossmith.evaluation.seeds import Standing, mean_fitness, seed_block, top

__all__ = [
    "AnyExecutor",
    "Executor",
    "Plan",
    "Screened",
    "Standing",
    "TunedLearningRate",
    "check_device",
    "evaluate",
    "evaluate_chunk",
    "make_executor",
    "make_plan",
    "mean_fitness",
    "run_requests",
    "screen",
    "seed_block",
    "top",
    "tune_learning_rate",
]
