"""P base models trained as one stacked model under P losses."""

from lossmith.training.population.check import why_not_stacked
from lossmith.training.population.network import PopulationNetwork
from lossmith.training.population.stacked import NotStackable

__all__ = ["NotStackable", "PopulationNetwork", "why_not_stacked"]
