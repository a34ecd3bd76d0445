"""The published losses; `losses.published.loss` makes a `Loss` of one.

Every entry is an elementwise ℓ **to be minimised**, written in the expression language where possible. Under softmax
with one-hot targets only the target's output has t = 1, so a factor t picks p_t and the sum over outputs is the known
formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lossmith.errors import LossError
from lossmith.losses.entry import CLASSES, Published
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import HEADS
from lossmith.losses.related import RELATED
from lossmith.losses.taylor import Taylor, kept_terms

__all__ = ["PUBLISHED", "Published", "taylor_cross_entropy"]


def taylor_cross_entropy(values: Mapping[str, float]) -> Taylor:
    """Taylor polynomial of t·log p about t = p = ½ (ALGORITHMS §2): coefficients (−1)^{b+1}·2^b/b, half without t."""
    if values["order"] != int(values["order"]):
        raise LossError(f"taylor_cross_entropy: order = {values['order']} must be a whole number.")
    order = int(values["order"])
    variables = ("target", "prediction")
    coefficients = [
        (0.5, 1.0, 0.0)[min(in_t, 2)] * (-1.0) ** (in_p + 1) * 2.0**in_p / in_p
        for in_t, in_p in kept_terms(order, variables)
    ]
    return Taylor((*coefficients, 0.5, 0.5), order=order, variables=variables)


def _taylor(*genome: float) -> Callable[[Mapping[str, float]], Kernel]:
    def build(values: Mapping[str, float]) -> Kernel:
        del values
        return Taylor(genome)

    return build


_GLO = "Gonzalez & Miikkulainen 2020, Improved Training Speed, Accuracy, and Data Utilization..., arXiv 1905.11528"
_TAYLORGLO = "Gonzalez & Miikkulainen 2021, Optimizing Loss Functions Through Multivariate Taylor..., arXiv 2002.00059"
_EVOMAL = "Raymond et al. 2023, Learning Symbolic Model-Agnostic Loss Functions via Meta-Learning, arXiv 2209.08907"

PUBLISHED: Mapping[str, Published] = {
    entry.name: entry
    for entry in (
        Published(
            "cross_entropy",
            "-t*log(p)",
            "Good 1952, Rational Decisions, J. Royal Statistical Society B 14",
            "Negative log-likelihood of the target class.",
            "The pull on an output is t - p: it ends where the prediction is the target.",
        ),
        Published(
            "mse",
            "square(p - t)",
            "Legendre 1805, least squares",
            "Squared error, summed over outputs.",
            "The pull is proportional to the residual; its optimum is the conditional mean.",
            HEADS,
        ),
        Published(
            "mae",
            "abs(p - t)",
            "Laplace 1774, least absolute deviations",
            "Absolute error, summed over outputs.",
            "The pull is the residual's sign whatever its size; its optimum is the conditional median.",
            HEADS,
        ),
        Published(
            "huber",
            "min(abs(r), delta)*(abs(r) - min(abs(r), delta)/2)",
            "Huber 1964, Robust Estimation of a Location Parameter, Annals of Mathematical Statistics 35",
            "Half the squared error up to delta, linear beyond.",
            "The pull is the residual, but never more than delta: outliers lose their grip.",
            HEADS,
            {"delta": 1.0},
            {"delta": "(0, inf)"},
        ),
        Published(
            "focal",
            "-t*(1 - p)^gamma*log(p)",
            "Lin et al. 2017, Focal Loss for Dense Object Detection, arXiv 1708.02002",
            "Cross-entropy that fades on examples already classified well; gamma = 0 is cross-entropy.",
            "The pull of cross-entropy times about (1 - p_t)^gamma: hard examples dominate.",
            CLASSES,
            {"gamma": 2.0},
            {"gamma": "[0, inf)"},
        ),
        Published(
            "label_smoothing",
            "-((1 - alpha)*t + alpha/n)*log(p)",
            "Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision, arXiv 1512.00567",
            "Cross-entropy with a share alpha of the target spread over all classes.",
            "Pulls to p_t = 1 - alpha + alpha/n and no further.",
            CLASSES,
            {"alpha": 0.1},
            {"alpha": "[0, 1)"},
        ),
        Published(
            "generalized_cross_entropy",
            "t*(1 - p^q)/q",
            "Zhang & Sabuncu 2018, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, "
            "arXiv 1805.07836",
            "Between cross-entropy (q near 0) and mean absolute error (q = 1); robust to label noise.",
            "The pull of cross-entropy times p_t^q: examples the model disbelieves count less.",
            CLASSES,
            {"q": 0.7},
            {"q": "(0, 1]"},
        ),
        Published(
            "brier",
            "square(t - p)",
            "Brier 1950, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78",
            "Squared distance of predicted and true class probabilities.",
            "The pull vanishes where a prediction saturates, right or wrong.",
        ),
        Published(
            "baikal",
            "t/p - log(p)",
            _GLO,
            "The first loss found by genetic search: pulls to confidence, yet away from certainty.",
            "Pulls every output up by 1/p, the target's by 1/p^2 more: a lone sample rests at p_t = 1/sqrt(n).",
        ),
        Published(
            "baikal_cma",
            "-2.7279*(0.9863*log(1.5352*p) - (-1.1135)*(1.3716*t)/(-0.8411*p))",
            _GLO,
            "Baikal with coefficients tuned by CMA-ES.",
            "As Baikal, with 1.84 times the weight on the target's term, and a larger step.",
        ),
        Published(
            "absolute_cross_entropy",
            "phi0*abs(log(phi1*t*p + 1e-7))",
            _EVOMAL,
            "The absolute value of cross-entropy: where phi1 > 1 it turns around at p_t = 1/phi1.",
            "The pull of cross-entropy below p_t = 1/phi1 and its opposite above: an implicit label smoothing.",
            CLASSES,
            {"phi0": 1.0, "phi1": 1.0},
        ),
        Published(
            "sparse_label_smoothing",
            "-t*((1 - xi + xi/n)*log(p) + xi*(n - 1)/n*(log(1 - p) - log(n - 1)))",
            _EVOMAL,
            "Label smoothing that needs the target's output only: the rest of the mass is taken as evenly spread.",
            "Pulls to p_t = 1 - xi + xi/n as label smoothing does, but leaves the other classes' order alone.",
            CLASSES,
            {"xi": 0.1},
            {"xi": "[0, 1)"},
        ),
        Published(
            "taylor_evolved_1",
            "",
            _TAYLORGLO,
            "An evolved third-order Taylor loss shipped with the authors' code.",
            "A quadratic in p for targets and another for the rest.",
            build=_taylor(1.5742, -1.4446, 2.3616, -0.6632, -2.8569, -1.1313, 0.8439, 1.4872),
        ),
        Published(
            "taylor_evolved_2",
            "",
            _TAYLORGLO,
            "A second evolved Taylor loss shipped with the authors' code; its values are thousands of times larger.",
            "As taylor_evolved_1; it needs a learning rate that fits its scale.",
            build=_taylor(8.2896, 0.2415, 7.8726, 8.9666, 2.0184, 7.0513, -10.9408, 7.5216),
        ),
        Published(
            "taylor_cross_entropy",
            "",
            _TAYLORGLO,
            "Cross-entropy's Taylor polynomial of any order about t = p = 1/2.",
            "Close to cross-entropy for middling p_t and bounded at p_t = 0.",
            CLASSES,
            {"order": 3.0},
            {"order": "[1, 20]"},
            taylor_cross_entropy,
        ),
        *RELATED,
    )
}
