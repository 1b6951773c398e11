"""Facts of a model card, from the evidence of a version: plain values, no value of the data. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from math import isfinite
from typing import Any, Literal

from rempart.errors import IntegrityError
from rempart.ledger.port import Evidence
from rempart.models.explanations.figures import Explanations
from rempart.models.onnx_format import MODEL_FILE

What = Literal["data", "training"]
Standing = Literal["not judged", "refused", "awaits approval", "champion", "champion before", "rolled back"]


@dataclass(frozen=True)
class Intended:
    """What the pipeline file says of the model's use; `moment`: when its features are known. `holdout`: its rule.

    `definitions`: each feature whose definition in the file is still that of the version, in words.
    """

    description: str = ""
    owner: str = ""
    moment: str = ""
    holdout: str = ""
    definitions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CardPlace:
    """Where something is: `what` is `data` or `training`. Countries as ISO 3166: of the place, the operator's seat and
    its ultimate owner's seat; None where rempart.yaml does not tell.
    """

    what: What
    name: str
    operator: str
    country: str | None
    jurisdiction: str | None
    owner_jurisdiction: str | None


@dataclass(frozen=True)
class CardFeature:
    """A feature that the model reads. `definition`: empty where the pipeline file defines it in another way now."""

    name: str
    type: str
    definition: str
    digest: str


@dataclass(frozen=True)
class CardMetric:
    """A metric on the held-out rows: of the version, the naive baseline, the mean alone, and the champion then."""

    name: str
    value: float | None
    baseline: float | None
    overall: float | None
    champion: float | None


@dataclass(frozen=True)
class Judgement:
    """The gate's newest decision on the version. `kind`: `promotion`, `approval` or `refusal`."""

    seq: int
    at: datetime
    kind: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class CardDrift:
    """The watch's newest verdict on the version."""

    seq: int
    at: datetime
    outcome: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class CardLimit:
    """A limit of the model or of this card: `models.card.wording` has the text of its code."""

    code: str
    params: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """A model card.

    `standing`: when the card was made. `seq`, `trained_at`: record of the training. `labels`, `used`: snapshots of
    other pipelines. `made_with`: libraries. `learnt`: metrics on rows that the model learned from. `coverage`: what its
    intervals shall cover; None if it gives none. `threshold`: chance from which on it answers with the class
    `positive`, if it was chosen by cost.
    """

    model: str
    version: str
    standing: Standing
    seq: int
    trained_at: datetime
    intended: Intended
    task: str
    target: str
    classes: tuple[str, ...]
    snapshot: str
    labels: str
    used: Mapping[str, str]
    rows_train: int
    rows_holdout: int
    dataset_sha256: str
    held_out_sha256: str
    classification: str
    places: tuple[CardPlace, ...]
    trainer: str
    params: Mapping[str, Any]
    seed: int | None
    code_version: str
    made_with: Mapping[str, str]
    features: tuple[CardFeature, ...]
    metrics: tuple[CardMetric, ...]
    learnt: Mapping[str, float]
    judgement: Judgement | None
    explanations: Explanations | None
    drift: CardDrift | None
    model_sha256: str
    run_id: str
    job_id: str
    limits: tuple[CardLimit, ...]
    coverage: float | None = None
    positive: str | None = None
    threshold: float | None = None


LEARNT = "train_"
_OF_JOB = (LEARNT, "validation_", "backtest_", "onnx_difference")
"""Begin the names of figures that the job measured, not the platform on held-out rows."""
"""Beginning of the names of metrics that the job measured on rows that the model learned from."""


def card(
    candidate: Evidence,
    decisions: Sequence[Evidence],
    standing: Standing,
    watched: Sequence[Evidence],
    explanations: Explanations | None,
    intended: Intended,
    places: Sequence[CardPlace],
) -> Card:
    """Return the card of a version.

    decisions: promotions, approvals and refusals of the version, in any order; watched: verdicts of the watch on it.
    """
    body = candidate.body
    dataset, trainer, target = body["dataset"], body["trainer"], body["target"]
    newest = max(decisions, key=lambda record: record.seq, default=None)
    verdict = max(watched, key=lambda record: record.seq, default=None)
    features = tuple(
        CardFeature(
            str(each["name"]),
            str(each["type"]),
            intended.definitions.get(str(each["name"]), ""),
            str(each.get("definition", "")),
        )
        for each in body["features"]
    )
    labels, operating = body.get("labels"), (body.get("validation") or {}).get("operating")
    made = Card(
        candidate.subject,
        str(body["version"]),
        standing,
        candidate.seq,
        candidate.at,
        intended,
        str(body["task"]),
        str(target["name"]),
        tuple(map(str, target.get("values") or ())),
        str(body.get("snapshot") or ""),
        f"{labels['pipeline']}/{labels['snapshot']}" if labels else "",
        {str(name): str(snapshot) for name, snapshot in (body.get("used") or {}).items()},
        int(dataset["rows_train"]),
        int(dataset["rows_holdout"]),
        str(dataset["sha256"]),
        str(dataset["held_out"]["sha256"]),
        str(body["classification"]),
        tuple(places),
        str(trainer["use"]),
        dict(trainer.get("params") or {}),
        trainer.get("seed"),
        str(body.get("code_version", "")),
        {str(name): str(release) for name, release in (body.get("made_with") or {}).items()},
        features,
        _metrics(body, newest.body if newest else {}),
        {name: float(value) for name, value in body["metrics"].items() if name.startswith(LEARNT)},
        Judgement(newest.seq, newest.at, newest.kind, _texts(newest.body.get("reasons"))) if newest else None,
        explanations,
        CardDrift(verdict.seq, verdict.at, str(verdict.body["outcome"]), _texts(verdict.body.get("reasons")))
        if verdict
        else None,
        str(body["files"].get(MODEL_FILE, "")),
        str(body.get("run_id", "")),
        str(body["job_id"]),
        (),
        (trainer.get("intervals") or {}).get("coverage"),
        target["values"][operating["positive"]] if operating else None,
        operating["threshold"] if operating else None,
    )
    return _with_limits(made)


def _texts(found: Any) -> tuple[str, ...]:
    return tuple(str(each) for each in found or ())


def _metrics(body: Mapping[str, Any], judged: Mapping[str, Any]) -> tuple[CardMetric, ...]:
    """Return the metrics on held-out rows: those of the gate if it judged, because it measured again."""
    measured = judged.get("metrics") or {n: v for n, v in body["metrics"].items() if not n.startswith(_OF_JOB)}
    baselines, champion = judged.get("baselines") or {}, judged.get("champion_metrics") or {}
    return tuple(
        CardMetric(name, value, baselines.get(name), baselines.get(f"overall_{name}"), champion.get(name))
        for name, value in measured.items()
    )


def as_json(made: Card) -> dict[str, Any]:
    """Return the card as plain JSON, with six significant digits."""
    found: dict[str, Any] = _plain(asdict(made))
    return found


def from_json(data: Mapping[str, Any], where: str) -> Card:
    """Return the card of `as_json`. Raises IntegrityError that names `where` for another form."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Card).validate_python(data)
    except ValidationError:
        raise IntegrityError(
            f"{where} has no model card that this release reads", "Make it again: `rempart model card NAME VERSION`."
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _with_limits(made: Card) -> Card:
    return replace(made, limits=tuple(limits(made)))


def limits(made: Card) -> list[CardLimit]:
    """Return what the model is not good for, and what this card does not tell."""
    found = list[CardLimit]()
    if made.standing in ("refused", "not judged", "awaits approval", "rolled back"):
        found.append(CardLimit(f"standing.{made.standing.replace(' ', '-')}"))
    told = made.explanations
    if told is None:
        found.append(CardLimit("not-explained"))
    else:
        if told.over_time and (labels := [each.label for each in told.over_time.groups if each.label]):
            found.append(CardLimit("period", {"first": labels[0], "last": labels[-1], "by": told.over_time.by}))
        if told.sample < told.rows:
            found.append(CardLimit("sample", {"sample": told.sample, "rows": told.rows}))
        groups = [each for each in (told.over_time, *told.segments) if each]
        if groups and not any(each.groups for each in groups):
            found.append(CardLimit("few-rows", {"rows": told.rows}))
        found += [
            CardLimit("merged", {"by": each.by, "groups": each.merged})
            for each in groups
            if each.merged and each.groups and each.groups[-1].label is None
        ]
    former = [each for each in made.features if not each.definition]
    if former:
        found.append(CardLimit("former", {"features": len(former)}))
    if made.coverage is not None:
        found.append(CardLimit("intervals", {"coverage": f"{made.coverage * 100:.3g}%"}))
    if made.threshold is not None and made.positive is not None:
        never, shown = made.threshold > 1, {"label": made.positive, "threshold": f"{made.threshold:.3g}"}
        found.append(CardLimit("never", {"label": made.positive}) if never else CardLimit("threshold", shown))
    if made.drift is None:
        found.append(CardLimit("unwatched"))
    elif made.drift.outcome != "green":
        found.append(CardLimit("drift", {"outcome": made.drift.outcome, "record": made.drift.seq}))
    return [*found, CardLimit("groups"), CardLimit("cause")]
