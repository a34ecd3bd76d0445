"""The report: one well-formed page that loads nothing, runs nothing, says what is missing, and is written whole."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lossmith.analysis import (
    Arm,
    ReportData,
    Scored,
    SelectionBias,
    history,
    judge,
    loss_curve,
    render_report,
    write_report,
)
from lossmith.errors import UsageError
from lossmith.losses import Loss
from lossmith.losses.parser import parse
from lossmith.losses.tree import Tree

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Strict(HTMLParser):
    """Every tag is closed in order; text is collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Strict:
    reader = Strict()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


CE = Loss(Tree(parse("-t*log(p)")), name="cross_entropy")
BAIKAL = Loss(Tree(parse("t/p - log(p)")), name=EVIL)
VERDICT = judge(
    [Arm(f"found {EVIL}", "subject", (0.10, 0.12, 0.11), (0, 1, 2))],
    [Arm("cross_entropy", "control", (0.20, 0.23, 0.20), (0, 1, 2), note=EVIL)],
    [(f"found {EVIL}", "cross_entropy")],
    metric="error_rate",
    direction="min",
    selection_bias=SelectionBias(0.09, 0.11, 3, "error_rate", "min"),
    test_touches=6,
)
FULL = ReportData(
    title=f"taylorglo on {EVIL}",
    task=EVIL,
    method="taylorglo",
    when="2026-01-02 03:04",
    machine="2 cores",
    run="runs/a",
    facts=(("seed", EVIL),),
    verdict=VERDICT,
    loss_name=EVIL,
    loss_text=f"-t*log(p) {EVIL}",
    loss_latex=r"\ell = -t \, \log(p)",
    loss_torch=f"def loss(): return '{EVIL}'",
    loss_facts=(("null epoch", EVIL),),
    curve=loss_curve(BAIKAL, CE, classes=10),
    history=history([Scored(g, "ok", 0.1 / (g + 1)) for g in range(3)], metric="error_rate", direction="min"),
    spec=f'name = "{EVIL}"',
    commands=(f"lossmith search {EVIL}",),
)


@functools.cache
def full_page() -> str:
    return render_report(FULL)


def test_a_full_report_is_well_formed_and_self_contained() -> None:
    page = full_page()
    reader = read(page)
    assert "http:" not in page
    assert "https:" not in page
    assert not {"script", "link", "iframe", "object", "img"} & set(reader.tags)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
    assert "default-src 'none'" in page
    assert reader.tags.count("svg") == 4  # arms, formula, curve, history


def test_what_users_name_is_text() -> None:
    page = full_page()
    assert "<script" not in page
    text = "".join(read(page).text)
    assert text.count(EVIL) >= 10  # shown as it is, never run


def test_a_full_report_says_everything() -> None:
    text = "".join(read(full_page()).text)
    for part in (
        "Better",
        "Holm-adjusted p",
        "Selection bias −.020",
        "The test split has been touched 6 times",
        "3 generations: 3 ok. Best error rate as the search saw it: .0333.",
        "is drawn × 0.1",
        "in training its steps there are 10 times as large",
        "2 cores",
        "lossmith search",
    ):
        assert part in text, part


def test_what_is_missing_names_the_command_that_adds_it() -> None:
    data = ReportData(title="a shelf", evaluate_command="lossmith evaluate runs/a --seeds 10")
    text = "".join(read(render_report(data)).text)
    assert "No verdict yet" in text
    assert "lossmith evaluate runs/a --seeds 10 adds the verdict" in text
    assert "lossmith search --method METHOD" in text
    data = ReportData(title="a run", loss_text="-z", curve_note="a pairwise loss has no rows")
    without = "".join(read(render_report(data)).text)
    assert "No curve: a pairwise loss has no rows." in without


def test_selection_bias_is_shown_before_there_is_a_verdict() -> None:
    data = ReportData(title="a run", selection_bias=SelectionBias(0.09, 0.11, 3, "error_rate", "min"))
    assert "flattered it by .020" in "".join(read(render_report(data)).text)


def test_a_formula_that_cannot_be_drawn_is_still_there_as_text() -> None:
    page = render_report(replace(FULL, loss_latex=r"\nonsense{", verdict=None, curve=None, history=None))
    assert read(page).tags.count("svg") == 0
    assert "-t*log(p)" in page


def test_the_same_data_give_the_same_page() -> None:
    assert render_report(FULL) == full_page()


@pytest.mark.parametrize("outcome", ["better", "worse", "no_worse", "not_shown"])
def test_every_outcome_has_its_colour_and_word(outcome: str) -> None:
    page = render_report(ReportData("a run", verdict=replace(VERDICT, outcome=outcome, delta=0.01)))  # type: ignore[arg-type]
    assert f'class="verdict {outcome}"' in page
    assert re.search(rf"\.{outcome} {{ --tone|\.{outcome}, \.missing", page)


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    small = ReportData(title="old")
    assert write_report(path, small) == path
    before = path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o644

    def broken(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk gone"):
        write_report(path, replace(small, title="new"))
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; create it"):
        write_report(tmp_path / "nowhere" / "report.html", ReportData(title="a run"))
