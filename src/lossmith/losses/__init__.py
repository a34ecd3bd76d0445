"""What a loss is: families, inputs and heads, aggregation, expressions, published losses, storage, export."""

from lossmith.losses.aggregation import Pairwise, Pointwise, Ratio
from lossmith.losses.codec import from_json, loss_hash, register, to_document, to_json
from lossmith.losses.family import Kernel, Setting
from lossmith.losses.loss import Loss, LossSet
from lossmith.losses.published import PUBLISHED, Published, loss
from lossmith.losses.taylor import Taylor
from lossmith.losses.taylor_family import TaylorFamily
from lossmith.losses.tree import Tree

for _family in (Tree, Taylor):
    register(_family)

__all__ = [
    "PUBLISHED",
    "Kernel",
    "Loss",
    "LossSet",
    "Pairwise",
    "Pointwise",
    "Published",
    "Ratio",
    "Setting",
    "Taylor",
    "TaylorFamily",
    "Tree",
    "from_json",
    "loss",
    "loss_hash",
    "to_document",
    "to_json",
]
