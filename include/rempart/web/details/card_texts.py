"""Texts of the page of a model card, by language and key."""

from __future__ import annotations

from collections.abc import Mapping

from rempart.models.card.wording import LIMITS, NOTES
from rempart.web.wording import Language

TEXTS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "card": "Model card",
        "card.as-of": "As of",
        "card.life": "Life of the version",
        "card.use": "What is it for?",
        "card.predicts": "Predicts",
        "card.purpose": "Purpose",
        "card.owner": "Owner",
        "card.moment": "At the moment",
        "card.classification": "Classification",
        "card.limits": "What are its limits?",
        "card.figures": "How good is it?",
        "card.metric": "Metric",
        "card.baseline": "Naive baseline",
        "card.mean": "Mean alone",
        "card.champion": "Champion then",
        "card.rows": "{train} rows to learn from, {holdout} rows held out:",
        "card.errors": "Where does it err?",
        "card.errors-by": "Errors by {by}",
        "card.others": "all others",
        "card.none": "no value",
        "card.importance": "What counts?",
        "card.dependence": "How does it answer?",
        "card.dependence-on": "Mean prediction by {feature}",
        "card.features": "What does it read?",
        "card.feature": "Feature",
        "card.type": "Type",
        "card.definition": "Made of",
        "card.former": "defined in another way today",
        "card.data": "What did it learn from, and where?",
        "card.place.data": "Data are at",
        "card.place.training": "Trained at",
        "card.seats": "seats: operator {operator}, owner {owner}",
        "card.trainer": "Trainer",
        "card.page": "Page",
        "card.standing.not judged": "not judged",
        "card.standing.refused": "refused",
        "card.standing.awaits approval": "awaits approval",
        "card.standing.champion": "champion",
        "card.standing.champion before": "champion before",
        "card.standing.rolled back": "rolled back",
        **{f"card.limit.{code}": text for code, text in LIMITS.items()},
        **{f"card.note.{code}": text for code, text in NOTES.items()},
    },
    "fr": {
        "card": "Fiche du modèle",
        "card.as-of": "État du",
        "card.life": "Vie de la version",
        "card.use": "À quoi sert-il ?",
        "card.predicts": "Prédit",
        "card.purpose": "Finalité",
        "card.owner": "Responsable",
        "card.moment": "Au moment",
        "card.classification": "Classification",
        "card.limits": "Quelles sont ses limites ?",
        "card.figures": "Que vaut-il ?",
        "card.metric": "Métrique",
        "card.baseline": "Référence naïve",
        "card.mean": "Moyenne seule",
        "card.champion": "Champion d’alors",
        "card.rows": "{train} lignes d’apprentissage, {holdout} lignes mises de côté :",
        "card.errors": "Où se trompe-t-il ?",
        "card.errors-by": "Erreurs par {by}",
        "card.others": "tous les autres",
        "card.none": "sans valeur",
        "card.importance": "Qu’est-ce qui compte ?",
        "card.dependence": "Comment répond-il ?",
        "card.dependence-on": "Prédiction moyenne selon {feature}",
        "card.features": "Que lit-il ?",
        "card.feature": "Variable",
        "card.type": "Type",
        "card.definition": "Faite de",
        "card.former": "définie autrement aujourd’hui",
        "card.data": "De quoi a-t-il appris, et où ?",
        "card.place.data": "Données chez",
        "card.place.training": "Entraîné chez",
        "card.seats": "sièges : opérateur {operator}, propriétaire {owner}",
        "card.trainer": "Entraîneur",
        "card.page": "Page",
        "card.standing.not judged": "pas jugée",
        "card.standing.refused": "refusée",
        "card.standing.awaits approval": "attend l’approbation",
        "card.standing.champion": "champion",
        "card.standing.champion before": "champion auparavant",
        "card.standing.rolled back": "retirée du service",
        "card.limit.standing.refused": "La barrière a refusé cette version : ne l’utilisez pas.",
        "card.limit.standing.not-judged": "La barrière n’a pas encore jugé cette version : ne l’utilisez pas.",
        "card.limit.standing.awaits-approval": (
            "Cette version a passé la barrière et attend l’approbation d’une personne."
        ),
        "card.limit.standing.rolled-back": "Cette version a été retirée du service : une autre a pris sa place.",
        "card.limit.not-explained": (
            "L’importance, la dépendance et les erreurs par groupe n’ont pas été mesurées pour cette version."
        ),
        "card.limit.period": (
            "Les lignes mises de côté vont de {first} à {last}. Aucun chiffre ne parle d’une autre période."
        ),
        "card.limit.sample": "L’importance est mesurée sur {sample} des {rows} lignes mises de côté.",
        "card.limit.few-rows": (
            "Seules {rows} lignes sont mises de côté. Les erreurs d’un groupe sont données à partir de 30 lignes."
        ),
        "card.limit.merged": (
            "Par {by} : {groups} groupes ont moins de 30 lignes, ou viennent après les plus grands. Ils sont "
            "trop petits pour être jugés un par un, et figurent ensemble sous « tous les autres »."
        ),
        "card.limit.former": (
            "{features} variables sont définies autrement aujourd’hui dans le fichier du pipeline : leur "
            "définition n’est pas donnée ici."
        ),
        "card.limit.intervals": (
            "Les intervalles sont faits pour {coverage} des vraies valeurs, d’après les erreurs d’une partie des "
            "lignes. `coverage` est ce qu’ils couvrent sur les lignes mises de côté, `width` leur largeur moyenne. Des "
            "lignes d’une autre période peuvent en sortir plus souvent."
        ),
        "card.limit.never": (
            "La réponse n’est jamais {label} : sur une partie des lignes, c’est ce qui coûte le moins. Avec d’autres "
            "coûts, un autre seuil convient."
        ),
        "card.limit.threshold": (
            "La réponse est {label} à partir d’une probabilité de {threshold}, où les erreurs coûtent le moins sur une "
            "partie des lignes. Avec d’autres coûts, un autre seuil convient."
        ),
        "card.limit.unwatched": (
            "Aucun verdict de la surveillance sur cette version n’est enregistré : nul ne sait si ses données "
            "ont changé depuis."
        ),
        "card.limit.drift": (
            "Le dernier verdict de la surveillance sur cette version est {outcome} (enregistrement {record})."
        ),
        "card.limit.groups": (
            "Les groupes sont les valeurs des variables du modèle. Qu’il se trompe davantage pour un groupe de "
            "personnes qui n’est pas une variable n’a pas été mesuré."
        ),
        "card.limit.cause": "Importance et dépendance disent comment le modèle répond, et non ce qui cause la cible.",
        "card.note.importance": (
            "Hausse de {metric} sur les lignes mises de côté quand les valeurs de la variable sont mélangées ; "
            "le trait est l’écart-type de {repeats} répétitions. Des variables qui disent la même chose se "
            "partagent l’importance."
        ),
        "card.note.dependence": (
            "Prédiction moyenne si la variable avait cette valeur dans chaque ligne. Un point d’un nombre est "
            "une valeur que 10 lignes au moins partagent, ou la moyenne d’autant de lignes, sans les valeurs "
            "extrêmes."
        ),
        "card.note.groups": (
            "Chaque groupe a au moins 30 lignes mises de côté. Le trait pointillé est l’erreur de toutes les lignes."
        ),
        "card.note.contributions": (
            "Contributions d’une seule prédiction : rempart model explain {model} --prediction ID"
        ),
    },
}
