"""English texts of a model card's limits and notes, by code. The cockpit has the same ones in each language."""

from __future__ import annotations

from collections.abc import Mapping

from rempart.models.card.facts import CardLimit
from rempart.models.explanations.figures import LEAST_GROUP, LEAST_POINT

LIMITS: Mapping[str, str] = {
    "standing.refused": "The gate refused this version: do not use it.",
    "standing.not-judged": "The gate has not judged this version yet: do not use it.",
    "standing.awaits-approval": "This version passed the gate and waits for the approval of a person.",
    "standing.rolled-back": "This version was rolled back: another one took its place.",
    "not-explained": "Importance, dependence and errors by group were not measured for this version.",
    "period": "The held-out rows are of {first} to {last}. No figure tells of other times.",
    "sample": "Importance is measured on {sample} of the {rows} held-out rows.",
    "few-rows": f"Only {{rows}} rows are held out. Errors of groups are told from {LEAST_GROUP} rows on.",
    "merged": f"By {{by}}: {{groups}} groups have fewer than {LEAST_GROUP} rows, or are beyond the largest ones. They "
    "are too small to judge one by one, and stand together as “all others”.",
    "former": "{features} features are defined in another way in the pipeline file today, so their definition is not "
    "told here.",
    "intervals": "Intervals are made for {coverage} of the true values, by the errors of a part of the rows. "
    "`coverage` is what they cover on the held-out rows, `width` how wide they are on average. Rows of other times may "
    "lie outside more often.",
    "never": "The answer is never {label}: on a part of the rows that costs least. With other costs another threshold "
    "is right.",
    "threshold": "The answer is {label} from a probability of {threshold} on, where wrong answers cost least on a part "
    "of the rows. With other costs another threshold is right.",
    "unwatched": "No verdict of the watch on this version is on record: nobody knows whether its data moved since.",
    "drift": "The watch’s newest verdict on this version is {outcome} (record {record}).",
    "groups": "Groups are values of the model’s own features. Whether it errs more for people of a group that is no "
    "feature was not measured.",
    "cause": "Importance and dependence tell how the model answers, not what causes the target.",
}
NOTES: Mapping[str, str] = {
    "importance": "Rise of {metric} on held-out rows when the feature’s values are shuffled; the line is the standard "
    "deviation of {repeats} repeats. Features that say the same share their importance.",
    "dependence": "Mean prediction if the feature had this value in every row. A point of a number is a value that at "
    f"least {LEAST_POINT} rows share, or the mean of so many rows, without the smallest and largest values.",
    "groups": f"Every group has at least {LEAST_GROUP} held-out rows. The dashed line is the error of all rows.",
    "contributions": "Contributions of a single prediction: rempart model explain {model} --prediction ID",
}


def told(limit: CardLimit) -> str:
    """Return the text of a limit."""
    return LIMITS[limit.code].format(**limit.params)
