"""The evaluation plan: everything about *how* candidates are evaluated that could change a bit of the result.

Decided once when a run is created (`evaluation.engine_choice`), written to its spec, reused by every resume (DESIGN
§4). The same spec on the same machine and versions gives the same bits at any worker count and after any interruption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lossmith.errors import SpecError
from lossmith.records import Work

ENGINES = ("sequential", "population")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Plan:
    """How candidates are evaluated.

    Args:
        engine: "sequential": one base model at a time; "population": those of a chunk as one stacked model.
        reason: why this engine, for people.
        device: torch device text.
        dtype: "float32": base models compute in the numbers they are made of; "bfloat16": forward passes under
            autocast, losses and parameters as ever.
        threads: intra-op threads per training.
        channels_last: memory order of images.
        chunk, screen_chunk, tune_chunk: most requests per transaction and per piece of work. Trainings of a chunk are
            stacked by the population engine and done one by one by the sequential one; the screens of a chunk are done
            at once, and so its tunings.
        chance_step: step of a partial training from which a candidate at chance is stopped; 0 never.
        chance_value: metric of the best constant predictor on the fitness split.
        deadline: seconds per request of a chunk, after which it is given up as timed out (by `Workers` only); 0 never.
        compile, compile_reason: whether steps of stacked training are compiled by torch, and why or why not.
        graph, graph_reason: whether on a GPU they are recorded as CUDA graphs, and why or why not.
        members: the plan of each task, where there are several; trainings and screens go by these.

    Raises:
        SpecError: an engine or number format that this version does not know, a chunk below 1.
    """

    engine: str = "sequential"
    reason: str = ""
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    channels_last: bool = False
    chunk: int = 1
    chance_step: int = 0
    chance_value: float = 0.0
    deadline: float = 0.0
    screen_chunk: int = 64
    tune_chunk: int = 8
    compile: bool = False
    compile_reason: str = ""
    graph: bool = False
    graph_reason: str = ""
    members: tuple[Plan, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (("engine", ENGINES), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise SpecError(f"plan.{name} = {getattr(self, name)!r}: {' or '.join(known)} was expected.")
        for name in ("chunk", "screen_chunk", "tune_chunk"):
            if getattr(self, name) < 1:
                raise SpecError(f"plan.{name} = {getattr(self, name)!r}: a whole number of at least 1 was expected.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the spec."""
        found = {name: value for name, value in asdict(self).items() if name != "members"}
        return found | {"members": [plan.to_dict() for plan in self.members]} if self.members else found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`.

        Raises:
            SpecError: a field that this version does not know, or a value out of its range.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise SpecError(
                f"unknown field {min(unknown)!r} in the plan of the spec: it was written by another version."
            )
        members = tuple(cls.from_dict(one) for one in values.get("members", ()))
        return cls(**{**values, "members": members})

    def chunk_of(self, work: Work) -> int:
        """Most requests per chunk of a kind of work."""
        return {"train": self.chunk, "screen": self.screen_chunk, "tune": self.tune_chunk}[work]

    @property
    def stacks(self) -> bool:
        """Whether base models are trained as a stack."""
        return self.engine == "population"

    def describe(self) -> str:
        """One line for people: the engine with its chunk and number format, and why."""
        stacked = f", up to {self.chunk} candidates at once" if self.engine == "population" else ""
        compiled = ", compiled" if self.compile else ", as CUDA graphs" if self.graph else ""
        without = f"; not compiled: {self.compile_reason}" if self.compile_reason and not self.compile else ""
        without += f"; no CUDA graphs: {self.graph_reason}" if self.graph_reason and not self.graph else ""
        why = f" ({self.reason})" if self.reason else ""
        return f"engine {self.engine}{stacked}, {self.dtype} on {self.device}{compiled}{why}{without}"
