"""The page `features`: every feature view with owner, key, moment, features, origin and users."""

from __future__ import annotations

from collections.abc import Mapping

from rempart.web import sources
from rempart.web.page import Page
from rempart.web.read_models.catalogue import views
from rempart.web.wording import Language


def read_features() -> views.Features:
    """Return the feature views of all pipelines, with the origin of each feature and the champions that read it."""
    return views.features(sources.newest(), sources.now())


TEXTS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "features.note": "What a model can read. Champions and snapshots are those on record in the ledger.",
        "features.view": "View",
        "features.owner": "Owner",
        "features.key": "Key",
        "features.moment": "Moment",
        "features.users": "Read by",
        "features.nobody": "no champion",
        "features.row": "own row",
        "features.trailing": "windows",
        "features.used": "of another pipeline",
        "features.values_of": "Values of",
        "features.used_by": "Used by",
        "features.through": "Through {view}:",
        "features.feature": "Feature",
        "features.type": "Type",
        "features.columns": "Made of",
        "features.sources": "Delivered as",
        "features.rows": "the number of rows",
        "features.former": "By a former definition:",
        "features.user": "{model} {version}: {count} of {all} features, trained on",
        "features.mlflow": "MLflow run",
        "features.invalid": "Pipeline {pipeline} is not valid: {why}",
    },
    "fr": {
        "features.note": "Ce qu’un modèle peut lire. Les champions et les instantanés sont ceux du registre.",
        "features.view": "Vue",
        "features.owner": "Responsable",
        "features.key": "Clé",
        "features.moment": "Moment",
        "features.users": "Lue par",
        "features.nobody": "aucun champion",
        "features.row": "sa propre ligne",
        "features.trailing": "fenêtres",
        "features.used": "d’un autre pipeline",
        "features.values_of": "Valeurs de",
        "features.used_by": "Utilisée par",
        "features.through": "Par {view} :",
        "features.feature": "Variable",
        "features.type": "Type",
        "features.columns": "Faite de",
        "features.sources": "Livrée comme",
        "features.rows": "le nombre de lignes",
        "features.former": "Selon une définition antérieure :",
        "features.user": "{model} {version} : {count} variables sur {all}, entraîné sur",
        "features.mlflow": "Exécution MLflow",
        "features.invalid": "Le pipeline {pipeline} n’est pas valide : {why}",
    },
}
PAGE = Page("features", 45, {"en": "Features", "fr": "Variables"}, "read", read_features, texts=TEXTS)
