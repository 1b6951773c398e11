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
