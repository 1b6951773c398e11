"""Recognise columns that name people, by their header or by their values: no closed list of them enters a draft."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_MOST = 2 / 3
"""Share of the distinct values that look like names, from which on a column names people."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PEOPLE = _words(
    # English
    "adviser advisor agent applicant approver assignee author candidate caretaker carer cashier caseworker clerk "
    "consultant contact_person courier customer doctor driver employee engineer examiner guest handler inspector judge "
    "lawyer manager mechanic member nurse officer owner passenger patient people person physician pilot pupil referee "
    "reporter requester salesman salesperson staff student supervisor surgeon teacher technician tenant therapist "
    "worker forename surname approved_by assigned_to changed_by created_by entered_by handled_by signed_by updated_by "
    "iban login ssn "
    # German
    "ansprechpartner antragsteller arzt aerztin autor bearbeiter bearbeitet_von berater besitzer betreuer bote "
    "eigentuemer erstellt_von fahrer familienname gast gutachter hausmeister kunde kundin lehrer leiter mieter "
    "mitarbeiter monteur nachname pfleger pruefer richter sachbearbeiter schueler techniker verfasser verkaeufer "
    "vorname zuname zusteller "
    # French
    "auteur chauffeur conducteur conductrice conseiller conseillere demandeur eleve employe enseignant enseignante "
    "gestionnaire infirmier infirmiere instructeur livreur locataire medecin nom_de_famille patiente personne prenom "
    "proprietaire referent responsable technicien vendeur vendeuse"
)
"""Columns whose values are people, or the last words of their names: as the names of columns are written."""
_OTHER_AGENTS = re.compile(r"(.*_)?(user_agent|device_driver)")
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+|\+[1-9][0-9 ()/.-]{6,18}")
_JOINTS = ("", "n", "en", "s")
"""Letters between the parts of `fahrername`, `kundenname` and `patientenname`."""
_WHOSE = _words("first last full given family middle maiden user client contact")
"""Words before `name` that only people have."""
_NAME = _words("name names nom noms")
"""Columns that name people if their values are capitalised words."""
_YES_OR_NO = _words("yes no y n true false ja nein j oui non o si 0 1 x")
_TITLES = _words("Dr Prof Mr Mrs Ms Miss Mme Mlle Hr Herr Fr Frau")
_PARTICLES = _words("van von vom zu zum zur de den der des di da dal del della do dos du la le el al ben bin")
_THINGS = _words(
    # English
    "new old great north south east west northern southern eastern western upper lower central united saint street "
    "road square avenue lane park garden gardens station airport harbour harbor port house home building apartment "
    "room school centre center city town village district county region zone area hill lake river bay beach island "
    "islands valley kingdom republic states bank company group holding inc ltd gmbh ag sa bv hospital hotel market "
    "shop store office online offline full part single double standard basic premium high low medium light heavy "
    "public private type class plan service services other unknown not "
    # German
    "neu neue neuer neues alt alte alter bad sankt nord sued ost strasse straße platz weg allee bahnhof flughafen "
    "hafen haus wohnung zimmer schule zentrum stadt dorf kreis bezirk kasse amt praxis sonstige sonstiges unbekannt "
    # French, and places elsewhere
    "nouveau nouvelle vieux vieille sainte rue place gare maison appartement chambre ecole école ville quartier sud "
    "est ouest autre inconnu san santa los las rio"
)
"""Words of names of places, companies and kinds of things, in lower case."""
_OF_THINGS = _words(
    "brand category city class country department district group kind make manufacturer model place product region "
    "shop site species state station status stop store street supplier town type zone "
    "abteilung art bezirk gattung gruppe haltestelle hersteller kategorie klasse land lieferant marke modell ort "
    "produkt stadt strasse "
    "article categorie classe departement fabricant fournisseur gare genre lieu marque modele pays produit quartier "
    "rue secteur statut ville"
)
"""Last words of the names of columns whose capitalised values are no people."""


def likely(column: str, values: Collection[str]) -> str:
    """Return why a column seems to name people, as words for a comment; empty if it does not. Pure.

    `column`: its name in the schema. `values`: its distinct cells.
    """
    if not values or _YES_OR_NO.issuperset(value.lower() for value in values):
        return ""
    if _says_people(column) or (column in _NAME and _most(map(_is_capitalised, values), len(values))):
        return "its name says so"
    if _most((bool(_ADDRESS.fullmatch(value)) for value in values), len(values)):
        return "most values are mail addresses or phone numbers"
    of_things = column.rsplit("_", 1)[-1] in _OF_THINGS
    looks = (_is_name(value, initial=of_things) for value in values)
    return "most values look like names" if len(values) > 1 and _most(looks, len(values)) else ""


def _most(found: Iterable[bool], of: int) -> bool:
    """Return whether most are true; of many, those that decide it are enough."""
    others = 0
    for is_true in found:
        others += not is_true
        if others > (1 - _MOST) * of:
            return False
    return True


def _says_people(column: str) -> bool:
    """Return whether the name of a column says that it names people, in English, German or French."""
    plain = re.sub(r"_?[0-9]+\Z", "", column)  # caseworker_2, the second column of a name
    plain = re.sub(r"(_|(?<=er))in(nen)?\Z", "", plain)  # sachbearbeiter_in, fahrerin
    if _OTHER_AGENTS.fullmatch(plain):
        return False
    if any(plain == word or plain.endswith(f"_{word}") for word in _PEOPLE) or plain.endswith("case_worker"):
        return True
    whose = plain.removesuffix("name").rstrip("_").rsplit("_", 1)[-1]
    if not plain.endswith("name"):
        return False
    return whose in _WHOSE or any(whose.endswith(joint) and whose.removesuffix(joint) in _PEOPLE for joint in _JOINTS)


def _is_name(text: str, *, initial: bool) -> bool:
    """Return whether a text looks like a person's name: two to four capitalised words, titles or initials with a point.

    `initial`: only names with a title or an initial count.
    """
    tokens = [token for token in re.split(r"[\s,]+", text) if token and token not in _PARTICLES]
    certain = [token for token in tokens if _is_initial(token) or token.rstrip(".") in _TITLES]
    words = [token for token in tokens if _is_word(token) and token not in certain]
    if not words or not 2 <= len(tokens) <= 4 or len(words) + len(certain) != len(tokens):
        return False
    return bool(certain) or not (initial or any(word.lower() in _THINGS for word in words))


def _is_capitalised(text: str) -> bool:
    tokens = text.split()
    return 0 < len(tokens) <= 4 and all(_is_word(token) or _is_initial(token) for token in tokens)


def _is_word(token: str) -> bool:
    """Return whether a token is a capitalised word, such as Moreau, O'Neill or Jean-Luc."""
    letters = re.sub(r"['’-]", "", token)
    return len(letters) > 1 and letters.isalpha() and letters[0].isupper()


def _is_initial(token: str) -> bool:
    """Return whether a token is one or more initials, such as D. or J.-P."""
    return bool(re.fullmatch(r"(?:[^\W\d_]\.-?){1,3}", token)) and token[0].isupper()
