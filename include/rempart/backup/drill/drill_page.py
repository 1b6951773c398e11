"""Render a drill's report as one HTML page: no script, no external resources, all values escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from rempart.backup.drill.drill_report import Citation, DrillReport, MappedProfile, ProfileLine

_MARKS = {True: ("passed", "good"), False: ("failed", "bad"), None: ("not run", "open")}
_FINDINGS = {"supports": "good", "does not support": "bad", "not shown": "open"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 62rem; margin: 2rem auto; padding: 0 1.5rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 } th, td { text-align: left; vertical-align: top;
padding: .4rem .6rem; border-bottom: 1px solid #d9dee5 } th { font-weight: 600; white-space: nowrap }
.mark { display: inline-block; padding: 0 .5rem; border-radius: .6rem; white-space: nowrap; font-size: .88rem }
.good { background: #d7efdd; color: #14532d } .bad { background: #f8d7da; color: #7f1d1d }
.open { background: #e7e9ee; color: #414b5a } .small { font-size: .85rem; color: #566172 }
ul { margin: .2rem 0; padding-left: 1.1rem } code { font-size: .85rem; overflow-wrap: anywhere }
@media print { body { margin: 0; max-width: none } tr { break-inside: avoid } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: DrillReport) -> str:
    """Return the whole HTML document."""
    verdict = ("The drill passed.", "good") if report.ok else ("The drill is red.", "bad")
    if report.proved and not report.ok:
        verdict = ("The restore point passed its checks, but the drill is red.", "bad")
    facts = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in report.facts.items())
    checks = "".join(
        f"<tr><td>{_mark(*_MARKS[check.ok])}</td>"
        f"<td>{escape(check.what)}<div class=small>{escape(check.detail)}</div></td></tr>"
        for check in report.checks
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>Restore drill of {escape(report.point)}</title>\n<style>{_STYLE}</style></head><body>\n"
        f"<h1>Restore drill of {escape(report.point)}</h1>\n"
        f"<p>Scenario: {escape(report.scenario)}. Began {escape(report.began)}, on record {escape(report.recorded)}."
        f" Rempart {escape(report.version)}.</p>\n<p>{_mark(*verdict)}</p>\n"
        f"<h2>Figures</h2>\n<table>{facts}</table>\n"
        f"{''.join(_profile(profile) for profile in report.profiles)}"
        f"<h2>Checks</h2>\n<table>{checks}</table>\n"
        f"<h2>Evidence</h2>\n{_cited(report.evidence)}\n"
        "<p class=small>Records of the ledger by number and SHA-256. <code>rempart ledger export</code> writes them,"
        " signed, and <code>rempart ledger verify</code> checks them without this platform.</p>\n</body></html>\n"
    )


def _mark(text: str, kind: str) -> str:
    return f'<span class="mark {kind}">{escape(text)}</span>'


def _profile(profile: MappedProfile) -> str:
    rows = "".join(_line(line) for line in profile.lines)
    return (
        f"<h2>{escape(profile.title)}</h2>\n<p class=small>Source: {escape(profile.source)}, read "
        f"{profile.as_of.isoformat()}. The texts are paraphrases for orientation; the provisions themselves "
        "decide. <i>Supports</i> means that the cited evidence speaks for the provision, and no more than "
        f"that.</p>\n<table>{rows}</table>\n<p>Not covered by Rempart:</p>\n{_list(profile.not_covered)}\n"
    )


def _line(line: ProfileLine) -> str:
    because = "" if line.finding == "supports" else f"<p>{escape(line.because)}</p>"
    return (
        f"<tr><th>{escape(line.reference)}<br>{_mark(line.finding, _FINDINGS[line.finding])}</th>"
        f"<td>{escape(line.asks)}{because}{_list((*line.checks, *line.figures))}{_cited(line.evidence)}"
        f"<p class=small>Outside of Rempart: {escape(line.outside)}</p></td></tr>\n"
    )


def _list(texts: Iterable[str]) -> str:
    found = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul class=small>{found}</ul>" if found else ""


def _cited(citations: Iterable[Citation]) -> str:
    found = "".join(
        f"<li>Record {citation.record}: {escape(citation.what)}<br>"
        f"<code>{escape(citation.sha256 or 'from before the chain')}</code></li>"
        for citation in citations
    )
    return f"<ul class=small>{found}</ul>"
