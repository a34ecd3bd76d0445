"""What a loss is: families, inputs and heads, aggregation, expressions, published losses, storage, export."""

from lossmith.losses.aggregation import Pairwise, Pointwise, Ratio, Trimmed
from lossmith.losses.barron import Barron
from lossmith.losses.codec import from_json, loss_hash, register, to_document, to_json
from lossmith.losses.family import Kernel, Setting
from lossmith.losses.keys import algebraic_form, algebraic_key, structural_form, structural_key
from lossmith.losses.loss import Loss, LossSet
from lossmith.losses.network import Network
from lossmith.losses.online_rule import OnlineRule
from lossmith.losses.primitive_sets import PRIMITIVE_SETS, PrimitiveSet, primitive_set, register_primitive_set
from lossmith.losses.primitives import PRIMITIVES, Primitive
from lossmith.losses.published import PUBLISHED, Published, loss
from lossmith.losses.registration import register_primitive
from lossmith.losses.replay import Replay, replay_of
from lossmith.losses.simplify import readable
from lossmith.losses.taylor import Taylor
from lossmith.losses.taylor_family import TaylorFamily
from lossmith.losses.tree import Tree

for _family in (Tree, Taylor, Network):
    register(_family)

__all__ = [
    "PRIMITIVES",
    "PRIMITIVE_SETS",
    "PUBLISHED",
    "Barron",
    "Kernel",
    "Loss",
    "LossSet",
    "Network",
    "OnlineRule",
    "Pairwise",
    "Pointwise",
    "Primitive",
    "PrimitiveSet",
    "Published",
    "Ratio",
    "Replay",
    "Setting",
    "Taylor",
    "TaylorFamily",
    "Tree",
    "Trimmed",
    "algebraic_form",
    "algebraic_key",
    "from_json",
    "loss",
    "loss_hash",
    "primitive_set",
    "readable",
    "register_primitive",
    "register_primitive_set",
    "replay_of",
    "structural_form",
    "structural_key",
    "to_document",
    "to_json",
]
