"""The page of a report: its style sheet and the pieces it is made of. Whatever comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from string import Template

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2128; --muted: #5b6470; --grid: #dfe3e8; --paper: #ffffff; --panel: #f5f7f9; --link: #0b5cad;
  --blue: #0072b2; --orange: #d55e00; --green: #009e73;
  --good: #0b7a4b; --bad: #b3261e; --even: #0b5cad; --open: #8a5a00;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ed; --muted: #9aa4b0; --grid: #343b45; --paper: #14181d; --panel: #1d232a; --link: #7cb7f2;
    --blue: #5aaeea; --orange: #ff9254; --green: #35c192;
    --good: #4cc38a; --bad: #ff8a80; --even: #7cb7f2; --open: #e3b341;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .9rem; padding-bottom: .35rem; border-bottom: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { margin: .6rem 0; }
.kicker { color: var(--muted); font-size: .85rem; letter-spacing: .04em; margin: 0 0 .3rem; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: 0; font-size: .92rem; }
.facts dt { color: var(--muted); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.verdict { border-left: 5px solid var(--tone); background: var(--panel); padding: 1rem 1.25rem; margin: 2rem 0 0;
  border-radius: 0 6px 6px 0; }
.verdict strong { display: block; color: var(--tone); font-size: 1.15rem; margin-bottom: .3rem; }
.verdict p { margin: 0; }
.better { --tone: var(--good); } .worse { --tone: var(--bad); } .no_worse { --tone: var(--even); }
.not_shown, .missing { --tone: var(--open); }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { padding: .4rem .7rem; text-align: right; border-bottom: 1px solid var(--grid); vertical-align: top;
  font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
th { color: var(--muted); font-weight: 600; white-space: nowrap; }
th.text, td.text { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
figure { margin: 1.25rem 0; }
figure svg { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figure.formula { background: var(--panel); border-radius: 6px; padding: 1.1rem 1.25rem; overflow-x: auto; }
figure.formula svg { margin: 0; }
figcaption { color: var(--muted); font-size: .85rem; margin-top: .5rem; }
pre { background: var(--panel); border-radius: 6px; padding: .8rem 1rem; margin: .6rem 0;
  overflow: auto; max-height: 34rem;
  font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--link); }
.note { color: var(--muted); font-size: .92rem; }
footer { margin-top: 3.5rem; padding-top: .8rem; border-top: 1px solid var(--grid); color: var(--muted);
  font-size: .82rem; }
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  h2, h3, summary { break-after: avoid; }
  h2 { margin-top: 1.6rem; }
  footer { margin-top: 1rem; }
  figure, tr, .verdict { break-inside: avoid; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: none; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding: .3rem .4rem; white-space: normal; }
}
@page { margin: 18mm 15mm; }
"""

# The policy makes the page's promise binding: it loads nothing and runs nothing, whatever a task is called.
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


def page(title: str, body: str) -> str:
    """The whole document. `title` is plain text, `body` is HTML."""
    return _PAGE.substitute(title=escape(title), style=_STYLE, body=body)


def paragraph(text: str, css: str = "") -> str:
    """Plain text as a paragraph; parts in backticks are set as code."""
    kind = f' class="{css}"' if css else ""
    return f"<p{kind}>{inline(text)}</p>"


def inline(text: str) -> str:
    """Plain text, escaped; parts in backticks are set as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # an odd backtick is a character like any other
        return escape(text)
    return "".join(f"<code>{escape(p)}</code>" if i % 2 else escape(p) for i, p in enumerate(parts))


def heading(text: str, level: int = 2) -> str:
    """A section's heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Terms and their values; rows with an empty value are left out."""
    items = "".join(f"<dt>{escape(k)}</dt><dd>{inline(v)}</dd>" for k, v in rows if v)
    return f'<dl class="facts">{items}</dl>' if items else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """A table; the columns numbered in `left` are text, the others numbers."""

    def row(tag: str, cells: Sequence[str]) -> str:
        kinds = ["text" if i in left else "number" for i in range(len(cells))]
        return (
            "<tr>"
            + "".join(f'<{tag} class="{k}">{escape(c)}</{tag}>' for k, c in zip(kinds, cells, strict=True))
            + "</tr>"
        )

    body = "".join(row("td", cells) for cells in rows)
    return f'<div class="scroll"><table><thead>{row("th", header)}</thead><tbody>{body}</tbody></table></div>'


def figure(svg: str, caption: str = "", css: str = "") -> str:
    """A picture (SVG ready for a page) with its caption."""
    kind = f' class="{css}"' if css else ""
    below = f"<figcaption>{inline(caption)}</figcaption>" if caption else ""
    return f"<figure{kind}>{svg}{below}</figure>"


def code(text: str, *, wrap: bool = False) -> str:
    """A block of code or commands; `wrap` breaks long lines instead of scrolling them."""
    kind = ' class="wrap"' if wrap else ""
    return f"<pre{kind}>{escape(text.strip())}</pre>"


def details(summary: str, body: str) -> str:
    """Something that opens on request. `body` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def verdict_box(outcome: str, headline: str, sentence: str) -> str:
    """The verdict on top; `outcome` chooses the colour, the words say it as well."""
    return f'<div class="verdict {outcome}"><strong>{escape(headline)}</strong>{paragraph(sentence)}</div>'
