"""The run store: one run is one folder with a SQLite file that survives kills, power loss and curious readers.

    with RunStore.create("runs/x", kind="search", ...) as store:
        store.begin_session()
        store.add_generation(0, candidates, requests)
        store.record(finished_chunk, purpose="search")
        store.tell(0, fitness, counts, checkpoint=method_state, steps=3000)

The store knows records only: it never looks inside a loss, a fingerprint or a method's state.
"""

from __future__ import annotations

from lossmith.store.hooks import Hook, Moment, fault_injection
from lossmith.store.rows import CandidateRow, Checkpoint, EvaluationRow, EventRow, GenerationRow, RunRow, Session
from lossmith.store.run_store import RunStore, comparable_rows

__all__ = [
    "CandidateRow",
    "Checkpoint",
    "EvaluationRow",
    "EventRow",
    "GenerationRow",
    "Hook",
    "Moment",
    "RunRow",
    "RunStore",
    "Session",
    "comparable_rows",
    "fault_injection",
]
