"""Search methods by name."""

from __future__ import annotations

from typing import Any

from lossmith.errors import UnknownNameError
from lossmith.search.adalfl import AdaLFL
from lossmith.search.base import Method
from lossmith.search.evomal import EvoMAL
from lossmith.search.glo import GLO
from lossmith.search.gplfl import GPLFL
from lossmith.search.ml3 import ML3
from lossmith.search.random_search import RandomSearch
from lossmith.search.random_trees import RandomTrees
from lossmith.search.settings import check_names
from lossmith.search.taylor_unroll import TaylorUnroll
from lossmith.search.taylorglo import TaylorGLO

_ALL = (RandomSearch, RandomTrees, TaylorGLO, GLO, GPLFL, EvoMAL, TaylorUnroll, ML3, AdaLFL)
METHODS: dict[str, type[Method]] = {cls.name: cls for cls in _ALL}


def method(name: str, **settings: Any) -> Method:
    """A search method by name.

    Raises:
        UnknownNameError: no such method, with the nearest names.
        SpecError: no such setting, or a value out of its range.

    Example:
        >>> method("taylorglo", order=4).family.size
        12
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS, listing="lossmith methods")
    check_names(METHODS[name], settings)
    return METHODS[name](**settings)
