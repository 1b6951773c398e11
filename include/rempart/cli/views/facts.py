"""Read the facts that commands show: the cockpit's, from the configuration and the databases. Airflow is not needed."""

from __future__ import annotations

from rempart.web.facts import CockpitFacts


def gather() -> CockpitFacts:
    """Return the facts now. A source that does not answer is unknown, with the reason."""
    from rempart.flows.shared.platform import open_platform, utc_now
    from rempart.web import facts

    return facts.gather(open_platform, utc_now)


def waiting_rows(pipeline: str) -> int | None:
    """Return the rows of a pipeline that wait in quarantine now; None if the ledger does not answer."""
    from rempart.web.facts import Unknown
    from rempart.web.read_models import quarantine

    found = gather()
    return None if isinstance(found.evidence, Unknown) else quarantine.rows(found).get(pipeline, 0)


def complete(facts: CockpitFacts) -> bool:
    """Return whether every source answered: if not, a command ends with exit code 1."""
    return not facts.unknown()


def cockpit(pipeline: str) -> str:
    """Return the address of the cockpit's page of a pipeline; its path alone if the address of Airflow is unknown."""
    return _page(f"data/{pipeline}")


def card(model: str, version: str) -> str:
    """Return the address of the cockpit's page of a model card; its path alone if Airflow's address is unknown."""
    return _page(f"models/{model}/{version}/card")


def _page(path: str) -> str:
    from rempart.airflow_api import AirflowApi
    from rempart.errors import RempartError
    from rempart.settings import config

    try:
        host = AirflowApi(config.environment_connections("airflow_api")).url
    except RempartError:
        host = ""
    return f"{host}/rempart/{path}"
