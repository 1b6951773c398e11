"""Draft a pipeline file from one delivery or one table, for a person to correct.

Everything that the data cannot show (what is personal, when it is known, what to predict) is a valid guess below a
comment `# CHECK:` with the question that a person decides. What the data show is a comment without the mark. The draft
never contains values of free text or of columns that seem to name people. It contains the values of short closed lists,
because they are the schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rempart.errors import PipelineError
from rempart.ingestion.drafting import columns, learning, moments, rules
from rempart.ingestion.drafting import source as source_section
from rempart.ingestion.drafting.writing import comment_lines, explained, list_text
from rempart.ingestion.sampling.facts import EMPTY
from rempart.ingestion.sampling.files import of_file
from rempart.ingestion.sampling.keys import QUARANTINED
from rempart.ingestion.sampling.names import shown, yaml_word
from rempart.ingestion.sampling.sample import Sample
from rempart.ingestion.sampling.survey import Survey, pipeline_name, survey
from rempart.settings import plain_yaml
from rempart.settings.pipelines import pipelines_dir

_MOST = 20
"""Numbers of undecided lines that a reminder names."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_TEXTS = 5
"""Columns of texts that a draft names."""


def draft_pipeline(source: Path | Sample, name: str | None = None, *, target: str | None = None) -> str:
    """Return YAML of a pipeline for deliveries like this file, or for the source of a sample; it loads unchanged.

    `target`: the column to predict; without it, the draft guesses. Raises PipelineError.
    """
    if isinstance(source, Path):
        pipeline_name(source.name, name)  # before a large file is read
        source = of_file(source)
    return "\n".join(_lines(survey(source, name, target))) + "\n"


def save_draft(
    source: Path | Sample, name: str | None = None, folder: Path | None = None, *, target: str | None = None
) -> Path:
    """Write the draft among the pipeline files and return its path; never over a file that is there."""
    text = draft_pipeline(source, name, target=target)
    file = (folder or pipelines_dir()) / f"{plain_yaml.load(text)['name']}.yaml"
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError as cause:
        raise PipelineError(
            f"draft a pipeline: {file} already exists", "Draft under another name (--name), or remove the file."
        ) from cause
    return file


def undecided(text: str) -> list[int]:
    """Return the numbers of the lines of a pipeline file that a draft marked CHECK and nobody decided. Pure."""
    lines = enumerate(text.splitlines(), 1)  # a mark in a quoted value is none
    return [number for number, line in lines if re.search(r"# CHECK\b", _QUOTED.sub("", line))]


def reminder(text: str) -> str | None:
    """Return a sentence about the CHECK lines of a pipeline file that nobody decided; None without such lines. Pure."""
    if not (marked := undecided(text)):
        return None
    lines = ", ".join(map(str, marked[:_MOST])) + (f" and {len(marked) - _MOST} more" if len(marked) > _MOST else "")
    is_single = len(marked) == 1
    some = "1 question marked CHECK is" if is_single else f"{len(marked)} questions marked CHECK are"
    where, each = ("line", "it") if is_single else ("lines", "each")
    told = f"{some} open in the pipeline file ({where} {lines}): decide {each}, and delete its comment"
    return f"{told}. Until then the gate refuses every model."


def _lines(s: Survey) -> Iterator[str]:
    origin = f"{s.sample.told} of {shown(s.sample.name)}{s.sample.left_out}"
    asked = f"`rempart pipeline check {s.name}` names each open question, until its comment is deleted"
    yield from comment_lines(f"Drafted from {origin}. {asked}.")  # without the mark: a search for it ends empty
    if s.totals:
        rows = "1 row has" if s.totals == 1 else f"{s.totals:,} rows have"
        yield from comment_lines(
            f"{rows} almost only empty cells, as a line of totals has: such rows go to quarantine."
        )
    yield f"name: {yaml_word(s.name)}"
    yield f"description: Predicts {s.target.name} of each row at {s.time}, from what is known then."
    stored = "public, internal (about nobody), personal, or sensitive (health, beliefs, origin, ...)? It "
    stored += "decides where the data may be stored"
    yield from explained("classification: personal", asks=f"{stored}{_careful(s)}")
    sections = (source_section.lines, _key, moments.lines, columns.lines, rules.lines, learning.lines)
    yield from chain.from_iterable(("", *section(s)) for section in sections)


def _careful(s: Survey) -> str:
    """Return why a draft says `personal` although no column seems to name people; empty if one does."""
    if any(c.people for c in s.columns):
        return ""
    row = s.key.columns if len(s.key.columns) == 1 else ()  # names a row, not a thing with many rows
    told = (*row, s.target.name, *s.constant)
    texts = [c.name for c in s.columns if c.type == "string" and c.name not in told and c.note != EMPTY]
    if not texts:
        return ". No column seems to name people: the draft is careful"
    more = f" (and {len(texts) - _TEXTS} more)" if len(texts) > _TEXTS else ""
    doubt = f"but a text may tell of somebody, as a customer's number does: {', '.join(texts[:_TEXTS])}{more}"
    return f". No column seems to name people, {doubt}"


def _key(s: Survey) -> Iterator[str]:
    yield from explained(f"key: {list_text(s.key.columns)}", asks=_doubt(s))
    if s.closing:
        again = f"a row that comes again with its {s.target.name} replaces the open one"
        yield from explained("on_conflict: newest", note=again)
    elif "kind" not in s.sample.source:
        repeats = "does a delivery repeat rows, its own or earlier ones, as a full export does? Then write newest"
        yield from explained("on_conflict: refuse", asks=repeats)


def _doubt(s: Survey) -> str:
    """Return why the key may be another one."""
    doubts = ["does it identify a row in all deliveries?"]
    if s.sample.key:
        doubts = ["the primary key of the table"]
    elif not s.key.certain:
        doubts = ["no column identifies a row in these rows"]
    if s.key.note:
        told = s.key.note.replace(QUARANTINED, "of equal keys the last row counts") if s.closing else s.key.note
        doubts.append(f"{told}.")
    others = [c.name for c in s.columns if c.unique and c.name not in s.key.columns and c.type != "number"]
    return " ".join(doubts) + (f" Also unique here: {', '.join(others)}" if others else "")
