"""The rules for stacked tensors: importing this file registers all of them, one file per kind of function."""

from lossmith.training.population import (
    attributes,
    draws,
    elementwise,
    image_rules,
    linear,
    norms,
    products,
    reductions,
    shapes,
)

__all__ = ["attributes", "draws", "elementwise", "image_rules", "linear", "norms", "products", "reductions", "shapes"]
