"""What to try next: pure `init/ask/tell` methods. They know losses, but no networks, disks or devices."""

from lossmith.search.adalfl import AdaLFL
from lossmith.search.base import Method, Problem, State
from lossmith.search.evomal import EvoMAL
from lossmith.search.glo import GLO
from lossmith.search.gplfl import GPLFL
from lossmith.search.ml3 import ML3
from lossmith.search.random_search import RandomSearch
from lossmith.search.random_trees import RandomTrees
from lossmith.search.ranking import ranks
from lossmith.search.registry import METHODS, method
from lossmith.search.taylor_unroll import TaylorUnroll
from lossmith.search.taylorglo import TaylorGLO

__all__ = [
    "GLO",
    "GPLFL",
    "METHODS",
    "ML3",
    "AdaLFL",
    "EvoMAL",
    "Method",
    "Problem",
    "RandomSearch",
    "RandomTrees",
    "State",
    "TaylorGLO",
    "TaylorUnroll",
    "method",
    "ranks",
]
