"""The frame of a report: one HTML page that needs nothing but itself."""

from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --muted: #6b7684; --rule: #e3e7ec; --soft: #f6f8fa; --accent: #2457c5; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); -webkit-font-smoothing: antialiased;
  font: 16px/1.6 Inter, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 64px 32px 72px; }
header { border-bottom: 1px solid var(--rule); padding-bottom: 28px; }
.eyebrow { font-size: 13px; letter-spacing: .08em; text-transform: uppercase; color: var(--accent); font-weight: 600; }
h1 { font-size: 40px; line-height: 1.15; letter-spacing: -.02em; margin: 8px 0 14px; font-weight: 700; }
.lead { font-size: 18px; color: #414c5a; max-width: 46em; margin: 0; }
h2 { font-size: 21px; letter-spacing: -.01em; margin: 60px 0 4px; font-weight: 650; }
h2 + p { margin-top: 4px; }
p, figcaption { max-width: 46em; }
.note { color: var(--muted); font-size: 14.5px; line-height: 1.55; margin: 4px 0 18px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin: 30px 0 0; }
.card { padding: 2px 20px; border-left: 1px solid var(--rule); }
.card:first-child { padding-left: 0; border-left: 0; }
.card b { display: block; font-size: 28px; line-height: 1.25; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.card span { color: var(--muted); font-size: 13.5px; }
.card:first-child b { color: var(--accent); }
figure { margin: 18px 0 0; }
figure svg { display: block; max-width: 100%; height: auto; }
.key { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin: 0 .3em;
  background: var(--accent); }
.key.hollow { background: none; border: 1.5px solid #9aa5b2; }
.columns { columns: 270px; column-gap: 44px; }
.columns > div { break-inside: avoid; padding-bottom: 26px; }
h3 { font-size: 13px; letter-spacing: .06em; text-transform: uppercase; color: var(--muted); margin: 0 0 4px; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; }
td { padding: 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; font-variant-numeric: tabular-nums; }
td:first-child { color: var(--muted); padding-right: 16px; white-space: nowrap; }
td:last-child { text-align: right; overflow-wrap: anywhere; }
pre, code { font: 13.5px/1.6 "JetBrains Mono", "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--soft); border: 1px solid var(--rule); border-radius: 8px; padding: 14px 18px; margin: 14px 0 0;
  white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; }
pre .given { color: var(--accent); font-weight: 600; }
footer { margin-top: 72px; padding-top: 18px; border-top: 1px solid var(--rule); color: var(--muted);
  font-size: 13.5px; }
@media print { main { padding: 0; } figure, pre { break-inside: avoid; } }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML document of `parts`."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def head(eyebrow: str, title: str, lead: str, cards: Sequence[tuple[str, str]]) -> str:
    """Title, a sentence, and the figures that matter as (figure, what it is)."""
    shown = "".join(f'<div class="card"><b>{escape(b)}</b><span>{escape(s)}</span></div>' for b, s in cards)
    return (
        f'<header><div class="eyebrow">{escape(eyebrow)}</div><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(lead)}</p><div class="cards">{shown}</div></header>'
    )


def section(title: str, note: str, body: str) -> str:
    """A heading, what is to be seen (HTML), and the thing itself (HTML)."""
    return f'<section><h2>{escape(title)}</h2><p class="note">{note}</p>{body}</section>'


def figure(svg: str) -> str:
    """A picture."""
    return f"<figure>{svg}</figure>"


def table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A small table of names and values."""
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<div><h3>{escape(title)}</h3><table>{cells}</table></div>"


def columns(parts: Sequence[str]) -> str:
    """Parts beside each other, as many as fit."""
    return f'<div class="columns">{"".join(parts)}</div>'


def listing(text: str, given: str = "") -> str:
    """Text as it is, in a box; what was `given` before it stands out."""
    lead = f'<span class="given">{escape(given)}</span>' if given else ""
    return f"<pre>{lead}{escape(text)}</pre>"


def shaded(pieces: Sequence[tuple[str, float]]) -> str:
    """Text whose pieces are shaded by a number from 0 (plain) to 1."""
    spans = "".join(
        f'<span style="background:rgb(210 87 28/{max(0.0, min(1.0, shade)) * 0.75:.2f})">{escape(text)}</span>'
        for text, shade in pieces
    )
    return f"<pre>{spans}</pre>"
