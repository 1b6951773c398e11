"""Draw the charts of a model card, with the words of the cockpit's language."""

from __future__ import annotations

from markupsafe import Markup

from rempart.models.card import svg
from rempart.models.card.facts import Card
from rempart.models.explanations.figures import Dependence, ErrorSegment
from rempart.web.wording import Texts


def importance(card: Card, t: Texts) -> Markup:
    """Draw the importance of the features of a model card."""
    found = card.explanations
    return Markup(svg.importance_chart(t("card.importance"), found.importance) if found else "")  # noqa: S704 # escaped there


def errors(segment: ErrorSegment, overall: float, t: Texts) -> Markup:
    """Draw the error of each group of held-out rows, and that of all rows."""
    title = t("card.errors-by", by=segment.by)
    return Markup(svg.segment_chart(title, segment, overall, t("card.others")))  # noqa: S704 # escaped there


def dependence(card: Card, found: Dependence, t: Texts) -> Markup:
    """Draw the mean prediction over a feature's values."""
    between = svg.span(card.explanations.dependence if card.explanations else (), card.classes)
    title, none = t("card.dependence-on", feature=found.feature), t("card.none")
    drawn = svg.dependence_chart(title, found, card.classes, none, between)
    return Markup(drawn)  # noqa: S704 # escaped there
