"""The page `monitoring`: of each champion whether its inputs, predictions and errors have moved since its training."""

from __future__ import annotations

from collections.abc import Mapping

from rempart.web import sources
from rempart.web.page import Page
from rempart.web.read_models.watched import drift
from rempart.web.wording import Language


def read_monitoring() -> drift.Monitoring:
    """Return the newest verdict on each champion, its worst columns, the gate's metric, and both over time."""
    return drift.monitoring(sources.newest(), sources.now())


TEXTS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "monitoring.note": (
            "Rows that a champion did not learn from, compared with those that it learned from. Too few rows, an old "
            "verdict and one on another version are unknown."
        ),
        "monitoring.never": "No verdict is on record. The DAG monitor_{pipeline} makes one every day.",
        "monitoring.no-champion": "The model has no champion yet.",
        "monitoring.verdict": (
            "Version {version}, {rows} rows from {first} to {last}: {moved} of {watched} columns moved."
        ),
        "monitoring.other": "The champion is version {champion} now.",
        "monitoring.led-to": "What the alarm led to",
        "chain": "What verdict {verdict} led to",
        "chain.alarm": "Alarm",
        "chain.on": "Red verdict on version {version}",
        "chain.more": "{count} more",
        "chain.training": "Training",
        "chain.declined": "No training was started",
        "chain.candidate": "Candidate",
        "chain.version": "Version {version}",
        "chain.gate": "Gate",
        "chain.service": "In service",
        "chain.since": "since {at}",
        "chain.until": "until {at}",
        "chain.stays": "stays champion: the training gave no better one",
        "chain.waits": "not yet",
        "chain.run": "DAG run",
        "monitoring.metric": "{metric}, now and on the reference: the hold-out",
        "monitoring.segment": "Rows",
        "monitoring.all": "all",
        "monitoring.rows": "Number",
        "monitoring.now": "Now",
        "monitoring.recorded": "Reference",
        "monitoring.trained": "(training data)",
        "monitoring.no-reference": "no reference",
        "monitoring.columns": "Columns that moved most",
        "monitoring.column": "Column",
        "monitoring.moved": "Rows moved",
        "monitoring.allowed": "Allowed",
        "monitoring.psi": "PSI",
        "monitoring.nulls": "Without a value",
        "monitoring.errors": "{metric} of {pipeline} over time",
        "monitoring.movements": "Largest movement of a column of {pipeline} over time",
        "monitoring.freshness": "Does data still arrive?",
        "monitoring.data": "Data",
        "monitoring.data.rows": "Newest row",
        "monitoring.data.features": "Load of the features",
        "monitoring.data.labels": "Newest label",
        "monitoring.age": "Age at the verdict",
        "monitoring.expected": "Expected at most",
        "monitoring.fresh": "on time",
        "monitoring.late": "late",
        "monitoring.no limit": "no limit",
        "monitoring.unknown": "unknown",
        "monitoring.beside": "Champion beside challenger: version {challenger}, {standing}",
        "monitoring.champion": "Champion",
        "monitoring.challenger": "Challenger",
        "monitoring.difference": "Difference (95 % interval)",
        "monitoring.interval": "{value} ({low} to {high})",
        "monitoring.shared": "Both predicted the same {rows} rows, from which neither learned.",
        "monitoring.not-compared": "They could not be compared:",
        "monitoring.better.challenger": "Challenger {challenger} is better than champion {champion}, beyond chance.",
        "monitoring.better.champion": "Champion {champion} is better than challenger {challenger}, beyond chance.",
        "monitoring.better.neither": (
            "No difference beyond chance between champion {champion} and challenger {challenger}."
        ),
        "monitoring.pairs": "{metric} of champion and challenger of {pipeline} over time",
        "monitoring.standing.not judged": "not judged by the gate yet",
        "monitoring.standing.refused": "refused by the gate",
        "monitoring.standing.awaits approval": "awaits approval",
        "monitoring.standing.rolled back": "rolled back",
        "monitoring.standing.shadow": "shadow of the champion",
        "monitoring.apart": "Can a model tell the window from the training data?",
        "monitoring.intervals": "Intervals of the predictions",
        "monitoring.intervals.cover": "They cover {covered} of {rows} known true values, and promise {promised}.",
        "monitoring.intervals.few": "Too few true values are known to judge them: {rows}.",
        "monitoring.auc": "Its area under the curve (AUC) is {area} ({low} to {high}); 0.5 is by chance.",
        "monitoring.auc.moved": "More than {allowed}, the most that {spans} earlier windows let expect.",
        "monitoring.auc.usual": "Not more than {allowed}, the most that {spans} earlier windows let expect.",
        "monitoring.auc.short": "The training data is too short to say what is usual.",
        "monitoring.auc.by": "By these columns, the most useful first:",
    },
    "fr": {
        "monitoring.note": (
            "Les lignes dont un champion n’a pas appris, comparées à celles dont il a appris. Trop peu de lignes, un "
            "verdict ancien ou sur une autre version : inconnu."
        ),
        "monitoring.never": "Aucun verdict au registre. Le DAG monitor_{pipeline} en rend un chaque jour.",
        "monitoring.no-champion": "Le modèle n’a pas encore de champion.",
        "monitoring.verdict": (
            "Version {version}, {rows} lignes du {first} au {last} : {moved} colonnes sur {watched} ont bougé."
        ),
        "monitoring.other": "Le champion est maintenant la version {champion}.",
        "monitoring.led-to": "Ce que l’alarme a déclenché",
        "chain": "Ce que le verdict {verdict} a déclenché",
        "chain.alarm": "Alarme",
        "chain.on": "Verdict rouge sur la version {version}",
        "chain.more": "{count} de plus",
        "chain.training": "Apprentissage",
        "chain.declined": "Aucun apprentissage n’a été lancé",
        "chain.candidate": "Candidate",
        "chain.version": "Version {version}",
        "chain.gate": "Barrière",
        "chain.service": "En service",
        "chain.since": "depuis le {at}",
        "chain.until": "jusqu’au {at}",
        "chain.stays": "reste championne : l’apprentissage n’en a pas donné de meilleure",
        "chain.waits": "pas encore",
        "chain.run": "Exécution du DAG",
        "monitoring.metric": "{metric}, maintenant et sur la référence : les lignes réservées",
        "monitoring.segment": "Lignes",
        "monitoring.all": "toutes",
        "monitoring.rows": "Nombre",
        "monitoring.now": "Maintenant",
        "monitoring.recorded": "Référence",
        "monitoring.trained": "(données d’apprentissage)",
        "monitoring.no-reference": "sans référence",
        "monitoring.columns": "Colonnes qui ont le plus bougé",
        "monitoring.column": "Colonne",
        "monitoring.moved": "Lignes déplacées",
        "monitoring.allowed": "Permis",
        "monitoring.psi": "PSI",
        "monitoring.nulls": "Sans valeur",
        "monitoring.errors": "{metric} de {pipeline} dans le temps",
        "monitoring.movements": "Plus grand mouvement d’une colonne de {pipeline} dans le temps",
        "monitoring.freshness": "Les données arrivent-elles encore ?",
        "monitoring.data": "Données",
        "monitoring.data.rows": "Ligne la plus récente",
        "monitoring.data.features": "Chargement des variables",
        "monitoring.data.labels": "Étiquette la plus récente",
        "monitoring.age": "Âge lors du verdict",
        "monitoring.expected": "Attendu au plus",
        "monitoring.fresh": "à l’heure",
        "monitoring.late": "en retard",
        "monitoring.no limit": "sans limite",
        "monitoring.unknown": "inconnu",
        "monitoring.beside": "Championne et prétendante : version {challenger}, {standing}",
        "monitoring.champion": "Championne",
        "monitoring.challenger": "Prétendante",
        "monitoring.difference": "Différence (intervalle à 95 %)",
        "monitoring.interval": "{value} ({low} à {high})",
        "monitoring.shared": "Toutes deux ont prédit les mêmes {rows} lignes, dont aucune n’a appris.",
        "monitoring.not-compared": "La comparaison n’a pas pu se faire :",
        "monitoring.better.challenger": (
            "La prétendante {challenger} est meilleure que la championne {champion}, au-delà du hasard."
        ),
        "monitoring.better.champion": (
            "La championne {champion} est meilleure que la prétendante {challenger}, au-delà du hasard."
        ),
        "monitoring.better.neither": (
            "Aucune différence au-delà du hasard entre la championne {champion} et la prétendante {challenger}."
        ),
        "monitoring.pairs": "{metric} de la championne et de la prétendante de {pipeline} dans le temps",
        "monitoring.standing.not judged": "pas encore jugée par la barrière",
        "monitoring.standing.refused": "refusée par la barrière",
        "monitoring.standing.awaits approval": "en attente d’approbation",
        "monitoring.standing.rolled back": "retirée par retour arrière",
        "monitoring.standing.shadow": "ombre de la championne",
        "monitoring.apart": "Un modèle distingue-t-il la fenêtre des données d’apprentissage ?",
        "monitoring.intervals": "Intervalles des prédictions",
        "monitoring.intervals.cover": "Ils couvrent {covered} de {rows} valeurs vraies connues, et promettent "
        "{promised}.",
        "monitoring.intervals.few": "Trop peu de valeurs vraies sont connues pour les juger : {rows}.",
        "monitoring.auc": "Son aire sous la courbe (AUC) est {area} ({low} à {high}) ; 0,5 est le hasard.",
        "monitoring.auc.moved": "Plus que {allowed}, le plus que {spans} fenêtres antérieures laissent attendre.",
        "monitoring.auc.usual": "Pas plus que {allowed}, le plus que {spans} fenêtres antérieures laissent attendre.",
        "monitoring.auc.short": "Les données d’apprentissage sont trop courtes pour dire ce qui est habituel.",
        "monitoring.auc.by": "Par ces colonnes, la plus utile d’abord :",
    },
}
PAGE = Page(
    "monitoring",
    47,
    {"en": "Monitoring", "fr": "Surveillance"},
    "read",
    read_monitoring,
    texts=TEXTS,
)
