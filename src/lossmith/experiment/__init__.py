"""Where search and evaluation meet: sessions, the search loop, finalists, the shelf, meta-testing, comparisons."""

from lossmith.experiment.api import compare, evaluate, resume, search, shelf
from lossmith.experiment.cost import Estimate, estimate
from lossmith.experiment.events import Event, GenerationFinished, Listener, Note, PhaseStarted, TrainingFinished
from lossmith.experiment.run import Best, Run

__all__ = [
    "Best",
    "Estimate",
    "Event",
    "GenerationFinished",
    "Listener",
    "Note",
    "PhaseStarted",
    "Run",
    "TrainingFinished",
    "compare",
    "estimate",
    "evaluate",
    "resume",
    "search",
    "shelf",
]
