"""Write a profile as one HTML page: no script, nothing from elsewhere, plots as inline SVG. Pure."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator, Sequence

from rempart.ingestion.profiles.measures import FEWEST, Bar, ColumnProfile, Profile, sections

_WIDTH, _HEIGHT = 420, 90
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
section { display: grid; grid-template-columns: repeat(auto-fill, minmax(28rem, 1fr)); gap: 1.5rem; }
article { border-top: 1px solid #8886; padding-top: .5rem; }
h3 { font-size: 1rem; margin: 0; } h3 small { font-weight: normal; opacity: .7; }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 1rem; margin: .3rem 0; }
dt { opacity: .7; } dd { margin: 0; }
svg { width: 100%; height: auto; } rect { fill: #3b7dd8; } text { font-size: 10px; fill: currentColor; }
"""
POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'"
)
"""Content policy of a page: its own style sheet, and nothing else."""


def page(found: Profile) -> str:
    """Return the page of a profile."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Profile) -> Iterator[str]:
    title = f"Data profile of {found.pipeline}, snapshot {found.snapshot}"
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{html.escape(title)}</h1>"
    yield (
        f"<p>{found.rows:,} rows, {len(found.columns)} columns, classification "
        f"<strong>{html.escape(found.classification)}</strong>.</p>"
    )
    if found.guarded:
        yield (
            "<p>The data may be personal. Keys and texts have counts and lengths only. No smallest or largest value "
            f"is shown. Numbers of rows are rounded to {FEWEST}. Bars of fewer than {FEWEST} rows are left out, and "
            "the smallest other bar where their number could be computed.</p>"
        )
    for heading, columns in sections(found):
        yield f"<h2>{heading}</h2><section>"
        for column in columns:
            yield from _column(column, found)
        yield "</section>"
    yield "</body></html>"


def _column(column: ColumnProfile, found: Profile) -> Iterator[str]:
    rows, few = found.rows, found.guarded and not column.distinct
    yield f"<article><h3>{html.escape(column.name)} <small>{html.escape(column.type)}</small></h3><dl>"
    facts = [
        ("empty", f"{column.nulls / rows:.1%} ({column.nulls:,} rows)" if rows else "no rows"),
        ("distinct values", f"fewer than {FEWEST}" if few else f"about {column.distinct:,}"),
    ]
    if column.longest is not None:
        mean = "" if column.mean_length is None else f", on average {column.mean_length:g}"
        facts.append(("length", f"{column.shortest} to {column.longest}{mean}"))
    if column.low is not None:
        facts.append(("range", f"{column.low} to {column.high}"))
    if column.bars and column.left_out:
        facts.append(("not in the plot", f"{column.left_out:,} rows"))
    yield from (f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in facts)
    yield "</dl>"
    if column.bars:
        yield plot(column.bars, column.name)
    yield "</article>"


def plot(bars: Sequence[Bar], name: str) -> str:
    """Return a bar chart as SVG. Each bar names its label and rows when pointed at."""
    most, width = max(bar.rows for bar in bars), _WIDTH / len(bars)
    drawn = []
    for i, bar in enumerate(bars):
        height = max(1.0, _HEIGHT * bar.rows / most)
        drawn.append(
            f'<rect x="{i * width:.1f}" y="{_HEIGHT - height:.1f}" width="{max(1.0, width - 2):.1f}" '
            f'height="{height:.1f}"><title>{html.escape(bar.label)}: {bar.rows:,} rows</title></rect>'
        )
    first, last = html.escape(bars[0].label[:30]), html.escape(bars[-1].label[:30])
    ends = f'<text x="0" y="{_HEIGHT + 14}">{first}</text>'
    if len(bars) > 1:
        ends += f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" text-anchor="end">{last}</text>'
    label = html.escape(f"Rows by {name}: {len(bars)} bars, the largest {most:,} rows", quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 18}" role="img" aria-label="{label}">{"".join(drawn)}{ends}</svg>'
