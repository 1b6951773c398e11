"""The page `models`: champions, the life of each version, verdicts of the gate, lineage."""

from __future__ import annotations

from rempart.web import sources
from rempart.web.details.card_texts import TEXTS
from rempart.web.page import Page
from rempart.web.read_models.model_versions import ModelPage, model_page


def read_models() -> ModelPage:
    """Return champions, the life of each version, the gate's verdict on it, and lineage."""
    return model_page(sources.newest(), sources.now())


PAGE = Page(
    "models",
    40,
    {"en": "Models", "fr": "Modèles"},
    "read",
    read_models,
    {
        "en": {
            **TEXTS["en"],
            "life": "Life of the versions of {model}",
            "life.note": "A bar is a time as champion. A ring is a training, a disc a passed gate, a cross a refusal "
            "or the version’s retirement.",
            "life.trained": "Trained",
            "life.because": "because of alarm {verdict}",
            "life.gate": "Gate",
            "life.served": "Served",
            "life.now": "now",
            "life.drift": "Drift",
            "life.drift.green": "green",
            "life.drift.red": "red",
            "life.drift.unknown": "unknown",
            "life.retired": "Retired",
            "life.deleting": "files are being deleted",
            "life.dag_run": "DAG run",
            "kind.retirement": "retired",
            "life.validated": "validated on {rows} rows",
            "life.opened": "openings of the hold-out: {times} (versions: {versions})",
            "life.backtest": "Back-test of {model} {version}: {metric} on the time after each training",
        },
        "fr": {
            **TEXTS["fr"],
            "life": "Vie des versions de {model}",
            "life.note": "Une barre est une période comme champion. Un anneau est un entraînement, un disque une "
            "barrière passée, une croix un refus ou le retrait de la version.",
            "life.trained": "Entraînement",
            "life.because": "à cause de l’alarme {verdict}",
            "life.gate": "Barrière",
            "life.served": "En service",
            "life.now": "maintenant",
            "life.drift": "Dérive",
            "life.drift.green": "vert",
            "life.drift.red": "rouge",
            "life.drift.unknown": "inconnu",
            "life.retired": "Retrait",
            "life.deleting": "suppression des fichiers en cours",
            "life.dag_run": "Exécution du DAG",
            "kind.retirement": "retirée",
            "life.validated": "validée sur {rows} lignes",
            "life.opened": "ouvertures du jeu de test : {times} (versions : {versions})",
            "life.backtest": "Rejeu de {model} {version} : {metric} sur la période qui suit chaque entraînement",
        },
    },
)
