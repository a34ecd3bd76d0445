"""Related losses: robust ones, those for long tails and overlaps, batchwise and scheduled ones (ALGORITHMS §5).

As in `literature`, every entry is to be minimised. Kernels that a formula of one output cannot say have a file each.
"""

from __future__ import annotations

from collections.abc import Mapping

from lossmith.losses.aggregation import Ratio, Trimmed
from lossmith.losses.barron import barron
from lossmith.losses.class_prior_losses import LDAM, ClassBalanced, LogitAdjusted
from lossmith.losses.dynamical import Dynamical
from lossmith.losses.entry import CLASSES, Published
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import HEADS
from lossmith.losses.parser import parse
from lossmith.losses.tree import Tree

Values = Mapping[str, float]


def _tree(text: str) -> Kernel:
    return Tree(parse(text))


def _dice_overlap(values: Values) -> Kernel:
    del values
    return _tree("2*t*p")


def _dice(values: Values) -> Ratio:
    below = "p + t" if values["power"] == 1 else "p^power + t^power"
    return Ratio(Tree(parse(below, parameters=values)), "class", values["smooth"])


def _tversky_overlap(values: Values) -> Kernel:
    del values
    return _tree("t*p")


def _tversky(values: Values) -> Ratio:
    below = parse("t*p + alpha*(1 - t)*p + beta*t*(1 - p)", parameters=values)
    return Ratio(Tree(below), "class", values["smooth"])


def _trimmed(values: Values) -> Trimmed:
    return Trimmed(values["keep"])


RELATED: tuple[Published, ...] = (
    Published(
        "unhinged",
        "(1 + z)/n - t*z",
        "van Rooyen et al. 2015, Learning with Symmetric Label Noise: The Importance of Being Unhinged, arXiv "
        "1505.07634; for classes, cross-entropy minus its mean over labels",
        "1 - z_t + mean z: linear in the outputs, so that symmetric label noise only scales it; it has no lower bound.",
        "The pull on an output is t - 1/n whatever the prediction: only weight decay or early stopping ends it.",
    ),
    Published(
        "barron",
        "abs(alpha - 2)/alpha*((square(r/c)/abs(alpha - 2) + 1)^(alpha/2) - 1)",
        "Barron 2019, A General and Adaptive Robust Loss Function, arXiv 1701.03077",
        "One family of robust losses: squared (alpha = 2), Charbonnier (1), Cauchy (0), Geman-McClure (-2), Welsch "
        "(-inf); alpha and c are loss parameters, which can be tuned.",
        "The pull is r/c^2 for residuals below c; beyond, the lower alpha, the sooner it fades.",
        HEADS,
        {"alpha": 1.0, "c": 1.0},
        {"alpha": "[-inf, inf]", "c": "(0, inf)"},
        lambda values: barron(values["alpha"], values["c"]),
    ),
    Published(
        "symmetric_cross_entropy",
        "-alpha*t*log(p) - beta*p*max(log(t), log_zero)",
        "Wang et al. 2019, Symmetric Cross Entropy for Robust Learning with Noisy Labels, arXiv 1908.06112",
        "Cross-entropy plus cross-entropy with prediction and target exchanged, log 0 := log_zero; robust to label "
        "noise.",
        "The pull of cross-entropy times alpha, plus that of the absolute error times -log_zero*beta.",
        CLASSES,
        {"alpha": 0.1, "beta": 1.0, "log_zero": -4.0},
        {"alpha": "[0, inf)", "beta": "[0, inf)", "log_zero": "[-16, 0)"},
    ),
    Published(
        "trimmed_cross_entropy",
        "-t*log(p), mean over the smallest keep*N of N rows",
        "Shen & Sanghavi 2019, Learning with Bad Training Data via Iterative Trimmed Loss Minimization, arXiv "
        "1810.11874",
        "Cross-entropy of the share keep of each batch that has the smallest loss; robust to label noise.",
        "The pull of cross-entropy on the rows that are kept, none on the others.",
        CLASSES,
        {"keep": 0.9},
        {"keep": "(0, 1]"},
        lambda values: _tree("-t*log(p)"),
        _trimmed,
    ),
    Published(
        "trimmed_mse",
        "square(p - t), mean over the smallest keep*N of N rows",
        "Rousseeuw 1984, Least Median of Squares Regression, J. American Statistical Association 79",
        "Least trimmed squares: squared error of the share keep of each batch that has the smallest loss.",
        "The pull of squared error on the rows that are kept, none on the others: outliers do not count at all.",
        HEADS,
        {"keep": 0.9},
        {"keep": "(0, 1]"},
        lambda values: _tree("square(p - t)"),
        _trimmed,
    ),
    Published(
        "dynamical_cross_entropy",
        "-weight(class, tau)*t*log(p)",
        "Ruiz-Garcia et al. 2021, Tilting the playing field: Dynamical loss functions for machine learning, arXiv "
        "2102.03793",
        "Cross-entropy whose class weights rise to amplitude and fall back, one class after the other, in so many "
        "rounds over all classes.",
        "The pull of cross-entropy, by turns up to amplitude times as strong on one class as on the others.",
        CLASSES,
        {"amplitude": 70.0, "rounds": 5.0},
        {"amplitude": "[1, inf)", "rounds": "(0, inf)"},
        lambda values: Dynamical(values["amplitude"], values["rounds"]),
    ),
    Published(
        "spectral_decoupling",
        "-t*log(p) + lam/2*square(z)",
        "Pezeshki et al. 2021, Gradient Starvation: A Learning Proclivity in Neural Networks, arXiv 2011.09468",
        "Cross-entropy plus a penalty on large outputs, so that one learned feature does not starve the others.",
        "The pull of cross-entropy minus lam*z: it ends at a finite output.",
        CLASSES,
        {"lam": 0.01},
        {"lam": "[0, inf)"},
    ),
    Published(
        "dice",
        "1 - (sum 2*t*p + smooth)/(sum (p^power + t^power) + smooth)",
        "Milletari et al. 2016, V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation, "
        "arXiv 1606.04797",
        "One minus the overlap of prediction and target, sums over the batch, mean over classes; power 2 is V-Net's, 1 "
        "the common one.",
        "Every class counts the same, however few rows it has; rows pull together, through the sums of the batch.",
        CLASSES,
        {"power": 1.0, "smooth": 1.0},
        {"power": "[1, 2]", "smooth": "[0, inf)"},
        _dice_overlap,
        _dice,
    ),
    Published(
        "tversky",
        "1 - (sum t*p + smooth)/(sum (t*p + alpha*(1 - t)*p + beta*t*(1 - p)) + smooth)",
        "Salehi et al. 2017, Tversky loss function for image segmentation using 3D fully convolutional deep networks, "
        "arXiv 1706.05721",
        "Dice with false positives weighted by alpha and false negatives by beta; 1/2 and 1/2 are Dice.",
        "As Dice, but with beta > alpha a missed target pulls more than a false alarm.",
        CLASSES,
        {"alpha": 0.3, "beta": 0.7, "smooth": 1.0},
        {"alpha": "[0, inf)", "beta": "[0, inf)", "smooth": "[0, inf)"},
        _tversky_overlap,
        _tversky,
    ),
    Published(
        "logit_adjustment",
        "-t*log(softmax(z + kappa*log(prior)))",
        "Menon et al. 2021, Long-tail learning via logit adjustment, arXiv 2007.07314",
        "Cross-entropy of outputs to which the log prior is added in training only: made for the balanced error.",
        "The pull of cross-entropy as if the frequent classes were predicted more: rare ones need a larger margin.",
        CLASSES,
        {"kappa": 1.0},
        {},
        lambda values: LogitAdjusted(values["kappa"]),
    ),
    Published(
        "class_balanced",
        "-weight(prior)*t*log(p)",
        "Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples, arXiv 1901.05555",
        "Cross-entropy with class weights (1 - beta)/(1 - beta^(rows*prior)), normalised to the sum n; a task knows "
        "its rows (0).",
        "The pull of cross-entropy times the weight of the row's class.",
        CLASSES,
        {"beta": 0.9999, "rows": 0.0},
        {"beta": "[0, 1)", "rows": "[0, inf)"},
        lambda values: ClassBalanced(values["beta"], values["rows"]),
    ),
    Published(
        "ldam",
        "-t*log(softmax(scale*(z - t*margin*(min(prior)/prior)^(1/4))))",
        "Cao et al. 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, arXiv 1906.07413",
        "Cross-entropy that asks for a margin, the wider the rarer the class; scale 30 is for normalised last layers.",
        "The pull of cross-entropy as if the target's output were lower by the margin of its class.",
        CLASSES,
        {"margin": 0.5, "scale": 1.0},
        {"margin": "[0, inf)", "scale": "(0, inf)"},
        lambda values: LDAM(values["margin"], values["scale"]),
    ),
)
