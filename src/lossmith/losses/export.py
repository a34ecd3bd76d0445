"""A loss handed over: a self-contained torch module, a LaTeX formula, or a JSON document.

The torch text needs no Lossmith: it is the head, the exact logarithms, the lowered expression (or a network with its
numbers) and the weighted mean in plain sight. Formulas enter it as words of our own parser only, and numbers as
numbers, so a document from elsewhere cannot smuggle code.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from textwrap import indent, wrap
from typing import Any

from lossmith.errors import LossError
from lossmith.losses.aggregation import Pointwise, Ratio, Trimmed
from lossmith.losses.codec import to_document
from lossmith.losses.export_batch import ratio_lines, trimmed_lines
from lossmith.losses.export_network import network_lines, network_numbers
from lossmith.losses.export_replay import replay_lines, replay_numbers
from lossmith.losses.expression import Apply, Node, Number, Symbol, fold, replace_args, substitute, symbols
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import LOWERED, head_name
from lossmith.losses.loss import Loss, LossSet
from lossmith.losses.lowering import lower
from lossmith.losses.network import Network
from lossmith.losses.printer import number_text, to_latex, to_text, to_torch, torch_helpers
from lossmith.losses.replay import Replay
from lossmith.losses.row_kernel import RowKernel

FORMATS = ("torch", "latex", "json")
_INSTEAD = {"torch": "json", "latex": "torch or json"}
_KEEP_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def export(loss: Loss | LossSet, to: str = "torch", classes: int | None = None) -> str:
    """A loss as text for use elsewhere.

    Args:
        loss: the loss.
        to: "torch" (Python source of `loss(output, target, weight=None)`, which imports only torch), "latex" (the
            formula of one output's share, as `\\ell(p, t) = …`), or "json" (what `from_json` reads).
        classes: the number of outputs C where it is fixed: then n becomes a number.

    Raises:
        LossError: another format; a set of losses, a pairwise loss, a head of the user's own (these can be exported to
            json), or LaTeX of an aggregation other than pointwise and of a family without a formula.
    """
    if to not in FORMATS:
        raise LossError(f"cannot export to {to!r}: use {', '.join(FORMATS)}.")
    if to == "json":
        return json.dumps(to_document(loss), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if isinstance(loss, LossSet):
        raise LossError(f"a set of {len(loss)} losses has no single formula: export its members, or the set to json.")
    if not isinstance(loss.aggregation, Pointwise | Ratio | Trimmed if to == "torch" else Pointwise):
        raise LossError(f"a {loss.aggregation.kind} loss cannot be exported to {to}: use {_INSTEAD[to]}.")
    if to == "latex":
        return _latex(loss, classes)
    return _torch(loss, classes)


@dataclass(frozen=True)
class _Source:
    """A kernel as lines of torch.

    Args:
        title: what the docstring calls it. reads: the inputs that must be there.
        before: what stands above the function. lines: they end with `value`, ℓ of each element.
    """

    title: str
    reads: frozenset[str]
    before: str
    lines: list[str]


def _outputs(loss: Loss, classes: int | None) -> int | None:
    return 2 if loss.head == "sigmoid" else classes  # a sigmoid output is read as the pair (1−p, p)


def _with_n(root: Node, n: int | None) -> Node:
    return root if n is None else substitute(root, {"n": float(n)})


def _latex(loss: Loss, classes: int | None) -> str:
    root = loss.kernel.expression()
    if loss.smoothing:
        root = substitute(root, {"r": Apply("sub", (Symbol("p"), Symbol("t")))})
    variables = [name for name in ("p", "t", "z", "r", "m", "p_t", "prior", "w", "tau") if name in symbols(root)]
    if loss.smoothing:
        share = Apply("div", (Number(loss.smoothing), Symbol("n")))
        smoothed = Apply("add", (Apply("mul", (Number(1 - loss.smoothing), Symbol("t"))), share))
        root = substitute(root, {"t": smoothed})
    if loss.outputs == "mean":
        count: Node = Symbol("n")
        if loss.head == "sigmoid":  # every one of C outputs is a pair
            count = Apply("mul", (Number(2.0), Symbol("C"))) if classes is None else Number(2.0 * classes)
        root = Apply("mul", (Apply("div", (Number(1.0), count)), root))
    arguments = ", ".join(to_latex(Symbol(name)) for name in variables)
    return rf"\ell({arguments}) = {to_latex(_with_n(root, _outputs(loss, classes)))}"


def _torch(loss: Loss, classes: int | None) -> str:
    head = head_name(loss.head)
    if head == "custom":
        raise LossError("a loss with a head of your own cannot be exported to torch: use json, or a named head.")
    source = _source(loss.kernel, loss, classes)
    reads, before = source.reads, [source.before]
    if head == "identity" and reads & {"m", "p_t", "log_p_t"}:
        raise LossError("the identity head has no target class: a loss that reads m or p_t needs softmax or sigmoid.")
    if "prior" in reads and loss.prior is None:
        raise LossError(
            "this loss uses the class prior, which text cannot give: in Python build it with prior=(share of each "
            "class, ...) and use lossmith.export, or export a run, whose task knows it, to json."
        )
    full = "value = torch.as_tensor(value, dtype=z.dtype, device=z.device).expand(z.shape)"
    lines = list(source.lines)
    if isinstance(loss.aggregation, Ratio):
        below = _source(loss.aggregation.denominator, loss, classes)
        reads, before = reads | below.reads, [*before, *([below.before] if below.before != source.before else [])]
        lines += [full, "above = value", *below.lines, full, "below = value"]
    elif not reads & ({"t", "p", "z", "r"} | (LOWERED.keys() - {"log_p_t"})):
        lines.append(full)
    body = [*_rows(loss, head), *_inputs(loss, head, reads), *lines]
    progress = ", *, progress" if "tau" in reads else ""
    text = indent("".join(f"{line}\n" for line in [*_docstring(loss, head, source), *body]), "    ")
    return (
        '"""A loss function from Lossmith; needs only PyTorch."""\n\n'
        "import torch\nimport torch.nn.functional as F\n"
        f"{''.join(before)}\n\ndef loss(output, target, weight=None{progress}):\n{text}{_reduction(loss)}"
    )


def _source(kernel: Kernel, loss: Loss, classes: int | None) -> _Source:
    if isinstance(kernel, Network):
        return _Source(str(kernel), frozenset({"p", "t"}), network_numbers(kernel), network_lines(kernel))
    if isinstance(kernel, Replay):
        members = [_source(member, loss, classes) for member in kernel.members]
        reads = frozenset({"tau"}).union(*(member.reads for member in members))
        before = replay_numbers(kernel, [member.before for member in members])
        return _Source(str(kernel), reads, before, replay_lines(kernel, [member.lines for member in members]))
    if isinstance(kernel, RowKernel):
        return _Source(str(kernel), kernel.reads, "", kernel.source())
    formula = kernel.expression()
    root = lower(_with_n(formula, _outputs(loss, classes)))
    helpers = "".join(f"\n\n{source}" for source in torch_helpers(root))
    return _Source(to_text(formula), symbols(root), helpers, _value(root))


def _docstring(loss: Loss, head: str, source: _Source) -> list[str]:
    name = "".join(c for c in loss.name or "" if c.isprintable() and c not in "\"'\\")  # a name is anybody's text
    share = "mean" if loss.outputs == "mean" else "sum"
    over = "each output's pair (1 - p, p)" if head == "sigmoid" else "outputs"
    rows = {"mean": "weighted mean over rows", "sum": "weighted sum over rows", "none": "one value per row"}
    whole, returns = f"{share} over {over} of {source.title}", rows[loss.reduction]
    if isinstance(loss.aggregation, Ratio):
        where = "each class, mean over classes" if loss.aggregation.over == "class" else "everything"
        whole = f"1 - sum({source.title})/sum({loss.aggregation.denominator}) over the rows of {where}"
        returns = f"a number; {number_text(loss.aggregation.smooth)} is added to both weighted sums"
    elif isinstance(loss.aggregation, Trimmed):
        returns += f", {number_text(loss.aggregation.keep)} of them: those with the smallest loss"
    progress = ["    progress: training steps done / steps of the full training, in [0, 1]."] * ("tau" in source.reads)
    kind = "class indices [...] or class targets [..., C]" if head == "softmax" else "[..., C]"
    return [
        *wrap(f'"""{name + ": " if name else ""}{whole}', 100, **_KEEP_WORDS),
        "",
        "To be minimised. p is the prediction, t the target, n the number of classes.",
        "",
        "Args:",
        f"    output: what the model returns, before the {head}, [..., C]."
        if head != "identity"
        else "    output: what the model returns, [..., C].",
        f"    target: {kind}.",
        "    weight: weight per row, [...]; rows of weight 0 count for nothing.",
        *progress,
        "",
        f"Returns: {returns}.",
        '"""',
    ]


def _rows(loss: Loss, head: str) -> list[str]:
    """Output as z [N, C], target as t [N, C]."""
    lines = ["z = output.reshape(-1, output.shape[-1])", "z = z if z.dtype == torch.float64 else z.float()"]
    if head == "softmax":
        lines += [
            "if target.shape == output.shape:",
            "    t = target.reshape(z.shape).to(z.dtype)",
            "else:",
            "    t = (target.reshape(-1, 1) == torch.arange(z.shape[-1], device=z.device)).to(z.dtype)",
        ]
    else:
        lines.append("t = target.reshape(z.shape).to(z.dtype)")
    if loss.smoothing:
        n = "2" if head == "sigmoid" else "z.shape[-1]"
        alpha = number_text(loss.smoothing)
        lines.append(f"t = (1 - {alpha}) * t + {alpha} / {n}")
    return lines


def _inputs(loss: Loss, head: str, reads: frozenset[str]) -> list[str]:
    """The inputs the expression reads, computed as `losses.inputs` does."""
    lines: list[str] = []
    if head == "softmax":
        if reads & {"p", "r", "p_t", *LOWERED}:
            lines.append("log_p = F.log_softmax(z, -1)")
        if reads & {"p", "r", "p_t", "log_1mp"}:
            lines.append("p = log_p.exp()")
        if "log_1mp" in reads:
            lines += [
                "# only the largest p can round to 1; its complement is the log-sum-exp of the others",
                "largest = torch.zeros_like(p, dtype=torch.bool).scatter(-1, z.argmax(-1, keepdim=True), True)",
                "others = torch.logsumexp(log_p.masked_fill(largest, -torch.inf), -1, keepdim=True)",
                "log_1mp = torch.where(largest, others, torch.log1p(-p.masked_fill(largest, 0.0)))",
            ]
    elif head == "sigmoid":
        lines += [
            "t = torch.stack((1 - t, t), -1)  # each output is the pair (1 - p, p)",
            "log_p = torch.stack((F.logsigmoid(-z), F.logsigmoid(z)), -1)",
            "z = torch.stack((torch.zeros_like(z), z), -1)",
        ]
        if reads & {"p", "r", "p_t"}:
            lines.append("p = log_p.exp()")
        if "log_1mp" in reads:
            lines.append("log_1mp = log_p.flip(-1)")
    else:
        lines.append("p = z")
        if "log_p" in reads:
            lines.append("log_p = p.abs().clamp(min=1e-7).log()")
        if "log_1mp" in reads:
            lines.append("log_1mp = (1 - p).abs().clamp(min=1e-7).log()")
        if "inv_p" in reads:
            lines.append("inv_p = torch.where(p < 0, -1.0, 1.0).to(p.dtype) / p.abs().clamp(min=1e-7)")
    if "inv_p" in reads and head != "identity":
        lines.append("inv_p = torch.exp(-log_p.clamp(min=-80.0 if z.dtype == torch.float32 else -700.0))  # finite")
    if "r" in reads:
        lines.append("r = p - t")
    if reads & {"m", "p_t", "log_p_t"}:
        lines.append("label = t.argmax(-1, keepdim=True)")
    if "m" in reads:
        lines.append("m = z.gather(-1, label) - z.scatter(-1, label, -torch.inf).amax(-1, keepdim=True)")
    if "p_t" in reads:
        lines.append("p_t = p.gather(-1, label)")
    if "log_p_t" in reads:
        lines.append("log_p_t = log_p.gather(-1, label)")
    if "n" in reads:
        lines.append("n = torch.tensor(float(z.shape[-1]), dtype=torch.float64)")
    if "tau" in reads:
        lines.append("tau = torch.as_tensor(progress, dtype=torch.float64)")
    if "prior" in reads:
        shares = ", ".join(number_text(share) for share in loss.prior or ())
        lines.append(f"prior = torch.tensor([{shares}], dtype=z.dtype, device=z.device)")
    if "w" in reads:
        lines.append("w = z.new_ones(()) if weight is None else weight.reshape(-1, *[1] * (z.dim() - 1)).to(z.dtype)")
    return lines


def _value(root: Node) -> list[str]:
    """The expression, parts that occur more than once computed once."""
    uses: Counter[Node] = Counter()
    fold(root, lambda node, _: uses.update(node.args))
    lines: list[str] = []

    def visit(node: Node, args: tuple[Node, ...]) -> Node:
        node, whole = replace_args(node, args), node
        if uses[whole] < 2 or whole.size < 3:
            return node
        name = f"part{len(lines) + 1}"
        lines.append(f"{name} = {to_torch(node)}")
        return Symbol(name)

    lines.append(f"value = {to_torch(fold(root, visit))}")
    return [piece for line in lines for piece in _broken(line)]


def _broken(line: str) -> list[str]:
    """A statement over several lines where it is long; a space is never inside a word of Python here."""
    if len(line) <= 110:
        return [line]
    name, _, text = line.partition(" = ")
    pieces = wrap(text, 100, **_KEEP_WORDS)
    return [f"{name} = (", *(f"    {piece}" for piece in pieces), ")"]


def _reduction(loss: Loss) -> str:
    if isinstance(loss.aggregation, Ratio):
        return _indented(ratio_lines(loss.aggregation))
    if isinstance(loss.aggregation, Trimmed):
        return _indented(trimmed_lines(loss.aggregation, loss.outputs, loss.reduction))
    lines = [f"rows = value.flatten(1).{loss.outputs}(1)", "if weight is not None:"]
    lines += [
        "    weight = weight.reshape(-1).to(rows.dtype)",
        "    rows = torch.where(weight == 0, 0.0, rows) * weight",
    ]
    if loss.reduction == "none":
        lines.append("return rows.reshape(output.shape[:-1])")
    elif loss.reduction == "sum":
        lines.append("return rows.sum()")
    else:
        lines += [
            "mass = torch.tensor(float(max(len(rows), 1))) if weight is None else weight.sum()",
            "return rows.sum() / (mass + (mass == 0))",
        ]
    return _indented(lines)


def _indented(lines: list[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)
