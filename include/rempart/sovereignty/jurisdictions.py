"""Countries and groups of countries, ISO 3166. (The Union writes EL for Greece; ISO writes GR.)"""

from __future__ import annotations

from collections.abc import Iterable

EU = frozenset(
    {
        *("AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU"),
        *("IE", "IT", "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK"),
    }
)
"""Member states. Source: https://european-union.europa.eu/principles-countries-history/eu-countries_en"""

EEA = EU | {"IS", "LI", "NO"}
"""The European Economic Area. Source: https://www.efta.int/eea"""

ADEQUACY = frozenset(["AD", "AR", "CA", "CH", "FO", "GB", "GG", "IL", "IM", "JE", "JP", "KR", "NZ", "UY"])
"""Countries with an adequacy decision under article 45 GDPR that holds for more than a named group of organisations.

The United States are left out: the decision of 2023 holds for certified organisations only. Canada's holds for
commercial ones. Source: https://commission.europa.eu/law/law-topic/data-protection (adequacy decisions), as of 2025-07.
"""

GROUPS = {"EU": EU, "EEA": EEA, "ADEQUACY": ADEQUACY}


def covers(allowed: Iterable[str], country: str) -> bool:
    """Return whether a list of countries and groups contains a country."""
    return any(country in GROUPS.get(name, {name}) for name in allowed)
