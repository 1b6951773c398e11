"""Render a model card as one HTML page: no script, no external resource, every value escaped, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape

from rempart.models.card import svg
from rempart.models.card.facts import Card, CardPlace
from rempart.models.card.wording import NOTES, told
from rempart.models.explanations.figures import ErrorGroup, ErrorSegment, Explanations, Importance

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --text: #1c2430; --ground: #fff; --faint: #566172; --line: #d9dee5; --bar: #2f5d94 }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ee; --ground: #14181f; --faint: #9aa6b6; --line: #333c49;
--bar: #7fb0e8 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground); max-width: 62rem;
margin: 2rem auto; padding: 0 1.5rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; font-weight: 600 }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 } th, td { text-align: left; vertical-align: top;
padding: .35rem .6rem; border-bottom: 1px solid var(--line) } th { font-weight: 600 }
.facts th { white-space: nowrap; width: 14rem } .small { font-size: .85rem; color: var(--faint) }
.figure { text-align: right; font-variant-numeric: tabular-nums }
.mark { border: 1px solid currentColor; padding: 0 .5rem; border-radius: .6rem; white-space: nowrap; font-size: .88rem }
svg { max-width: 100%; height: auto; color: var(--bar) } svg text { fill: var(--text) }
ul { padding-left: 1.1rem } code { font-size: .85rem; overflow-wrap: anywhere }
@media print { body { margin: 0; max-width: none } tr, svg { break-inside: avoid } }
"""
_MISSING = "This was not measured for this version."
OTHERS, NONE = "all others", "no value"
_BASELINE = "naive baseline"
_PLACES = {"data": "Data are at", "training": "Trained at"}


def page(card: Card) -> str:
    """Return the whole HTML document. Equal cards give equal pages."""
    title = f"Model card: {card.model}, version {card.version}"
    body = "".join(
        f"<h2>{escape(heading)}</h2>\n{''.join(parts)}\n"
        for heading, parts in (
            ("What is it for?", _use(card)),
            ("How good is it?", _metrics(card)),
            ("Where does it err?", _errors(card)),
            ("What does it read, and what counts?", _features(card)),
            ("How does it answer?", _dependence(card)),
            ("What are its limits?", _limits(card)),
            ("What did it learn from, and where?", _data(card)),
            ("How do you take it elsewhere?", _reversibility(card)),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        f'<p><span class="mark">{escape(card.standing)}</span> Trained {card.trained_at:%Y-%m-%d %H:%M} UTC.'
        f"</p>\n{body}"
        "<p class=small>Made from the records of the ledger that it names, and from figures of many rows. It has no "
        f"value of a single person. <code>rempart model card {escape(card.model)} {escape(card.version)}</code> makes "
        "it again from the evidence.</p>\n</body></html>\n"
    )


def _use(card: Card) -> Iterator[str]:
    what = f"{card.target} ({', '.join(card.classes)})" if card.classes else card.target
    yield _facts(
        {
            "Predicts": f"{what}, a {card.task}",
            "At the moment": card.intended.moment,
            "Purpose": card.intended.description,
            "Owner": card.intended.owner,
            "Classification": card.classification,
        }
    )


def _metrics(card: Card) -> Iterator[str]:
    head = ("metric", "this version", _BASELINE, "mean alone", "champion then")
    rows = (
        (each.name, *map(svg.number, (each.value, each.baseline, each.overall, each.champion))) for each in card.metrics
    )
    yield _table(head, rows)
    learnt = ", ".join(f"{name} {svg.number(value)}" for name, value in sorted(card.learnt.items()))
    yield f"<p class=small>All on {card.rows_holdout:,} held-out rows{_rule(card)}. The job that trained the model "
    yield f"had none of them. On rows that it learned from: {escape(learnt) or 'not measured'}.</p>\n"
    if card.judgement is None:
        yield "<p>The gate has not judged it yet.</p>"
        return
    yield f"<p>The gate judged it on {card.judgement.at:%Y-%m-%d %H:%M} UTC (record {card.judgement.seq}):</p>"
    yield _list(card.judgement.reasons)


def _rule(card: Card) -> str:
    return f" ({escape(card.intended.holdout)})" if card.intended.holdout else ""


def _errors(card: Card) -> Iterator[str]:
    found = card.explanations
    if found is None:
        yield f"<p>{escape(_MISSING)}</p>"
        return
    overall = overall_error(found)
    for segment in svg.groups_of((found.over_time, *found.segments)):
        heading = f"{found.metric} by {segment.by}"
        yield f"<h3>{escape(heading)}</h3>{svg.segment_chart(heading, segment, overall, OTHERS)}"
        yield _groups(found, segment)
    yield f"<p class=small>{escape(NOTES['groups'])}</p>"


def overall_error(found: Explanations) -> float:
    """Return the error on all held-out rows, from the groups: every row is in one group."""
    for segment in svg.groups_of((found.over_time, *found.segments)):
        return sum(group.error * group.rows for group in segment.groups) / sum(group.rows for group in segment.groups)
    return 0.0


def _groups(found: Explanations, segment: ErrorSegment) -> str:
    def row(group: ErrorGroup) -> tuple[str, ...]:
        other = group.bias if group.accuracy is None else group.accuracy
        rises = ", ".join(f"{name} {svg.number(rise)}" for name, rise in group.rises.items())
        return group.label or OTHERS, f"{group.rows:,}", svg.number(group.error), svg.number(other), rises

    second = "mean prediction less truth" if not found.classes else "accuracy"
    head = (segment.by, "rows", found.metric, second, "importance in the group")
    return f"<details><summary>Figures</summary>{_table(head, map(row, segment.groups))}</details>\n"


def _features(card: Card) -> Iterator[str]:
    found = card.explanations
    rises = {each.feature: each for each in found.importance} if found else {}
    if found:
        note = NOTES["importance"].format(metric=found.metric, repeats=found.repeats)
        yield f"{svg.importance_chart('Importance of features', found.importance)}<p class=small>{escape(note)}</p>"
    order = {name: place for place, name in enumerate(rises)}
    rows = (
        (
            each.name,
            each.type,
            each.definition or "defined in another way today",
            _risen(rises.get(each.name)),
        )
        for each in sorted(card.features, key=lambda each: order.get(each.name, len(order)))
    )
    yield _table(("feature", "type", "made of", "importance"), rows)


def _risen(found: Importance | None) -> str:
    return f"{svg.number(found.rise)} ± {svg.number(found.spread)}" if found else ""


def _dependence(card: Card) -> Iterator[str]:
    found = card.explanations
    if found is None or not found.dependence:
        yield f"<p>{escape(_MISSING)}</p>"
        return
    of = f"probability of {card.classes[1]}" if len(card.classes) == 2 else f"mean predicted {card.target}"
    between = svg.span(found.dependence, found.classes)
    for each in found.dependence:
        heading = f"{of} by {each.feature}"
        few = f" <span class=small>({each.few} values have too few rows)</span>" if each.few else ""
        yield f"<h3>{escape(heading)}{few}</h3>{svg.dependence_chart(heading, each, found.classes, NONE, between)}"
    yield f"<p class=small>{escape(NOTES['dependence'])}</p>"
    yield f"<p class=small>{escape(NOTES['contributions'].format(model=card.model))}</p>"


def _limits(card: Card) -> Iterator[str]:
    yield _list(told(limit) for limit in card.limits)
    if card.drift:
        yield f"<p>Newest verdict of the watch: {escape(card.drift.outcome)} on {card.drift.at:%Y-%m-%d} (record "
        yield f"{card.drift.seq}).</p>{_list(card.drift.reasons)}"


def _data(card: Card) -> Iterator[str]:
    used = ", ".join(f"{name}/{snapshot}" for name, snapshot in card.used.items())
    params = ", ".join(f"{name}={value}" for name, value in card.params.items())
    yield _facts(
        {
            "Snapshot": card.snapshot,
            "Labels": card.labels,
            "Views of other pipelines": used,
            "Rows to learn from": f"{card.rows_train:,} (SHA-256 {card.dataset_sha256})",
            "Held-out rows": f"{card.rows_holdout:,} (SHA-256 {card.held_out_sha256})",
            **{_PLACES[place.what]: _place(place) for place in card.places},
            "Trainer": f"{card.trainer}({params}), seed {card.seed}",
            "Code": card.code_version,
            "Libraries": ", ".join(f"{name} {release}" for name, release in sorted(card.made_with.items())),
            "Record of the training": str(card.seq),
            "MLflow run": card.run_id,
        }
    )


def _place(place: CardPlace) -> str:
    if place.jurisdiction is None:
        return f"{place.name}; its operator is not declared in rempart.yaml"
    return (
        f"{place.name}, run by {place.operator} in {place.country}; seat of the operator: {place.jurisdiction}, of its "
        f"ultimate owner: {place.owner_jurisdiction}"
    )


def _reversibility(card: Card) -> Iterator[str]:
    yield "<p>The model is one ONNX file of standard operators. Any runtime that reads ONNX runs it, without Rempart."
    yield f"</p>{_facts({'model.onnx, SHA-256': card.model_sha256})}"
    yield "<p class=small>How its matrix is made of the features is in <code>features.json</code> beside it.</p>"


def _facts(found: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in found.items() if text)
    return f'<table class="facts">{rows}</table>\n'


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    titles = "".join(f"<th>{escape(each)}</th>" for each in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>\n"


def _list(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>\n"
