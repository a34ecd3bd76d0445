"""The curves of an adaptive loss at its stored steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossmith.analysis import adaptation_curves, draw_adaptation
from lossmith.errors import LossError
from lossmith.losses import Loss, OnlineRule, Taylor, Tree
from lossmith.losses.parser import parse
from lossmith.losses.replay import packed

COURSE = ((1.0, -1.0, 0.5, 2.0, -0.5, 0.3, 0.4, 0.6), (0.5, 2.0, 0.3, 1.0, 0.7, -1.0, 0.6, 0.3))
TRAJECTORY = {"steps": [0, 40], "phi": [packed(phi) for phi in COURSE]}


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_curves_are_the_elementwise_loss_at_each_step(head: str) -> None:
    loss = Loss(Taylor(COURSE[0]), head=head, online=OnlineRule())
    curves = adaptation_curves(loss, TRAJECTORY, classes=4, points=7)
    assert curves.steps == (0, 40)
    p = torch.tensor(curves.x, dtype=torch.float64)
    for place, phi in enumerate(COURSE):
        for t, lines in ((1.0, curves.at_target), (0.0, curves.elsewhere)):
            expected = Taylor(phi).value({"p": p, "t": torch.full_like(p, t)})
            np.testing.assert_allclose(lines[place], expected, rtol=1e-6)
    start, end = np.array(COURSE)
    assert curves.moved == pytest.approx((0.0, np.linalg.norm(end - start) / np.linalg.norm(start)), rel=1e-6)


def test_regression_is_drawn_over_the_residual() -> None:
    tree = Tree(parse("square(r)"), weights=(1.0,))
    loss = Loss(tree, head="identity", online=OnlineRule())
    trajectory = {"steps": [0, 5], "phi": [packed((1.0,)), packed((2.0,))]}
    curves = adaptation_curves(loss, trajectory, classes=1, points=5)
    assert curves.x == (-3.0, -1.5, 0.0, 1.5, 3.0)
    assert curves.elsewhere == ()
    np.testing.assert_allclose(curves.at_target, [np.square(curves.x), np.square(2 * np.array(curves.x))])
    assert draw_adaptation(curves).startswith(b"<?xml")


def test_the_picture_says_from_where_to_where() -> None:
    loss = Loss(Taylor(COURSE[0]), online=OnlineRule())
    drawn = draw_adaptation(adaptation_curves(loss, TRAJECTORY, classes=3)).decode()
    assert "step 40" in drawn
    assert drawn == draw_adaptation(adaptation_curves(loss, TRAJECTORY, classes=3)).decode()


def test_what_does_not_adapt_is_one_sentence() -> None:
    with pytest.raises(LossError, match="does not adapt"):
        adaptation_curves(Loss(Taylor(COURSE[0])), TRAJECTORY, classes=3)
    with pytest.raises(LossError, match="head of your own"):
        adaptation_curves(Loss(Taylor(COURSE[0]), head=torch.sigmoid, online=OnlineRule()), TRAJECTORY, classes=3)
