"""The page `searches`: every search for parameters, with its trials, plots and the parameters that it found."""

from __future__ import annotations

from collections.abc import Mapping

from rempart.web import sources
from rempart.web.details import search_charts
from rempart.web.page import Page
from rempart.web.read_models.searches import views
from rempart.web.wording import Language


def read_searches() -> views.Searches:
    """Return the newest searches of each pipeline: trials, best value, parameters as YAML, and the plots' series."""
    return views.page(sources.newest(), sources.now())


TEXTS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "searches.none": "No search is on record. Declare trainer.search in a pipeline file, then start one: "
        "rempart model search NAME --start",
        "searches.what": "Each search tried parameters in the ranges of trainer.search in the pipeline file.",
        "searches.when": "{at}, trainer {trainer}, search {id}",
        "searches.trials": "{count} trials: {complete} complete, {pruned} pruned, {failed} failed.",
        "searches.ended.trials": "It ended after its last trial.",
        "searches.ended.time": "It ended at its time limit.",
        "searches.ended.budget": "It ended at its limit of GPU hours.",
        "searches.ended.unasked": "Trials are missing, because a task “ask” failed: read its log in Airflow.",
        "searches.took": "All trials together took {seconds}.",
        "searches.best": "Best {metric}: {value}, in trial {number}",
        "searches.no-best": "No trial was complete, so no parameters were chosen.",
        "searches.paste": "The parameters that it found, for the pipeline file of {pipeline}:",
        "searches.validation": "{metric} is measured on the validation part. No trial opened the hold-out, and the "
        "best of many trials looks a little better here than it is.",
        "searches.history": "{metric} by trial",
        "searches.note": "A disc is a complete trial, a ring a pruned one, a cross a failed one. The line is the best "
        "value so far. A value worse than that of every complete trial stands at the edge.",
        "searches.importances": "Importance of the parameters",
        "searches.importances.note": "Share of the differences in {metric} that each parameter explains in its range.",
        "searches.parameters": "Parameters",
        "searches.over": "{metric} over {parameter}",
        "searches.parameter": "Parameter",
        "searches.range": "Range",
        "searches.log": "by factors",
        "searches.found": "Found",
        "searches.share": "Importance",
        "searches.all": "All {count} trials",
        "searches.trial": "Trial {number}",
        "searches.number": "Trial",
        "searches.generation": "Generation",
        "searches.time": "Time",
        "searches.place": "Place",
        "searches.run": "MLflow run",
        "searches.state.complete": "complete",
        "searches.state.pruned": "pruned",
        "searches.state.failed": "failed",
        "searches.older": "All of them: rempart model search {pipeline}",
    },
    "fr": {
        "searches.none": "Aucune recherche n’est enregistrée. Déclarez trainer.search dans un fichier de pipeline, "
        "puis lancez-en une : rempart model search NOM --start",
        "searches.what": "Chaque recherche a essayé des paramètres dans les intervalles de trainer.search du fichier "
        "du pipeline.",
        "searches.when": "{at}, entraîneur {trainer}, recherche {id}",
        "searches.trials": "{count} essais : {complete} complets, {pruned} écourtés, {failed} en échec.",
        "searches.ended.trials": "Elle s’est terminée après son dernier essai.",
        "searches.ended.time": "Elle s’est terminée à sa limite de temps.",
        "searches.ended.budget": "Elle s’est terminée à sa limite d’heures de GPU.",
        "searches.ended.unasked": "Des essais manquent, car une tâche « ask » a échoué : lisez son journal dans "
        "Airflow.",
        "searches.took": "Durée de tous les essais : {seconds}.",
        "searches.best": "Meilleur {metric} : {value}, à l’essai {number}",
        "searches.no-best": "Aucun essai n’est complet : aucun paramètre n’a été choisi.",
        "searches.paste": "Les paramètres trouvés, pour le fichier du pipeline {pipeline} :",
        "searches.validation": "{metric} est mesuré sur la partie de validation. Aucun essai n’a ouvert le jeu de "
        "test, et le meilleur de nombreux essais paraît ici un peu meilleur qu’il n’est.",
        "searches.history": "{metric} par essai",
        "searches.note": "Un disque est un essai complet, un anneau un essai écourté, une croix un échec. La ligne est "
        "la meilleure valeur jusque-là. Une valeur pire que celle de tout essai complet est au bord.",
        "searches.importances": "Importance des paramètres",
        "searches.importances.note": "Part des différences de {metric} que chaque paramètre explique, dans son "
        "intervalle.",
        "searches.parameters": "Paramètres",
        "searches.over": "{metric} selon {parameter}",
        "searches.parameter": "Paramètre",
        "searches.range": "Intervalle",
        "searches.log": "par facteurs",
        "searches.found": "Trouvé",
        "searches.share": "Importance",
        "searches.all": "Les {count} essais",
        "searches.trial": "Essai {number}",
        "searches.number": "Essai",
        "searches.generation": "Génération",
        "searches.time": "Durée",
        "searches.place": "Lieu",
        "searches.run": "Exécution MLflow",
        "searches.state.complete": "complet",
        "searches.state.pruned": "écourté",
        "searches.state.failed": "en échec",
        "searches.older": "Toutes : rempart model search {pipeline}",
    },
}
PAGE = Page(
    "searches",
    42,
    {"en": "Searches", "fr": "Recherches"},
    "read",
    read_searches,
    texts=TEXTS,
    constants={"search_charts": search_charts, "marks": search_charts.MARKS, "written": views.written},
)
