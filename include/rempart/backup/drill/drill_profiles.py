"""Map legal provisions to what a drill shows, by kind of entity: data, each profile with source and date.

The texts are short paraphrases for orientation; the provisions themselves are decisive.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

ProfileName = Literal["financial", "nis2"]
Topic = Literal[
    "databases", "objects", "keys", "integrity", "service", "removed", "rpo", "rto", "attack drills", "switchovers",
    "independent site", "restores elsewhere", "locks", "retention", "drills of a year",
]  # fmt: skip
"""Topics that can be shown: by checks of the drill (the first ones), by other evidence, or by rempart.yaml."""


@dataclass(frozen=True)
class Requirement:
    """One provision: what it `asks`, the topics that it is `shown_by`, and the part that lies `outside` of Rempart."""

    reference: str
    asks: str
    shown_by: tuple[Topic, ...]
    outside: str


@dataclass(frozen=True)
class Profile:
    """The provisions for one kind of entity; `not_covered` names topics that no line addresses."""

    name: ProfileName
    title: str
    source: str
    as_of: date
    requirements: tuple[Requirement, ...]
    not_covered: tuple[str, ...]


FINANCIAL = Profile(
    "financial",
    "Financial entities: Regulation (EU) 2022/2554 (DORA)",
    "OJ L 333, 27.12.2022, p. 1, http://data.europa.eu/eli/reg/2022/2554/oj",
    date(2026, 11, 25),
    (
        Requirement(
            "DORA, Article 11(6)",
            "Test continuity, response and recovery plans at least yearly and after substantive changes, with scenarios"
            " of cyber-attacks and of switchovers to redundant capacity and backups.",
            ("databases", "service", "drills of a year", "attack drills", "switchovers"),
            "The plans themselves, tests of crisis communication, and systems other than this platform.",
        ),
        Requirement(
            "DORA, Article 12(2)",
            "Have backup systems that can be activated without endangering systems or data, and test backup and"
            " restoration periodically.",
            ("databases", "objects", "keys", "removed", "drills of a year"),
            "The backup policy and its approval; how often counts as periodic.",
        ),
        Requirement(
            "DORA, Article 12(3)",
            "Restore with own systems on systems that are physically and logically segregated from the source, and"
            " protected from unauthorised access and corruption.",
            ("independent site", "restores elsewhere", "keys", "locks"),
            "The drill restores into scratch databases on the platform's own PostgreSQL server, which is not "
            "segregated. rempart.yaml declares that two sites are physically apart; the operators have to attest "
            "it.",
        ),
        Requirement(
            "DORA, Article 12(6)",
            "Set recovery time and recovery point objectives for each function, by how critical it is, that keep the"
            " agreed service levels in extreme scenarios.",
            ("rpo", "rto"),
            "Whether the objectives are right for the functions that use this platform.",
        ),
        Requirement(
            "DORA, Article 12(7)",
            "Check and reconcile when recovering, so that data keeps the highest integrity and is consistent between"
            " systems.",
            ("databases", "objects", "integrity", "service"),
            "Reconciliation with data that external parties hold.",
        ),
    ),
    (
        "Crisis management and communication, inside and outside (Articles 11(2), 11(7) and 14)",
        "Business impact analysis, roles, staff and their training (Articles 11(5) and 13)",
        "Redundant capacity and secondary processing sites (Articles 12(4) and 12(5))",
        "Contracts with and exit from third-party providers (Chapter V)",
        "Systems and data that this platform does not keep",
    ),
)

NIS2 = Profile(
    "nis2",
    "Entities inside Implementing Regulation (EU) 2024/2690 (NIS 2), Annex, point 4",
    "OJ L, 2024/2690, 18.10.2024, http://data.europa.eu/eli/reg_impl/2024/2690/oj",
    date(2026, 11, 25),
    (
        Requirement(
            "Annex, 4.1.4",
            "Test the continuity and disaster recovery plan at planned intervals, and learn from it.",
            ("databases", "service", "drills of a year"),
            "The plan itself, and changes after a test.",
        ),
        Requirement(
            "Annex, 4.2.2(a)",
            "Backup plans state recovery times.",
            ("rpo", "rto"),
            "Whether the objectives follow from the risk assessment.",
        ),
        Requirement(
            "Annex, 4.2.2(b)",
            "Backup copies are complete and accurate, configuration and data in cloud services included.",
            ("databases", "objects", "integrity", "keys"),
            "Data that this platform does not keep. A restore point holds only the SHA-256 of the configuration file.",
        ),
        Requirement(
            "Annex, 4.2.2(c)",
            "Backup copies are kept in a safe place, outside the system's network and far enough from the main site.",
            ("independent site",),
            "The operators have to attest distance and networks.",
        ),
        Requirement(
            "Annex, 4.2.2(d)",
            "Physical and logical access to backup copies is controlled, by the classification of what they hold.",
            ("keys", "locks"),
            "Physical access at the operators; who holds the escrowed keys.",
        ),
        Requirement(
            "Annex, 4.2.2(e)",
            "Backup plans say how data is restored from backup copies.",
            ("databases", "objects", "service"),
            "Who approves a restore.",
        ),
        Requirement(
            "Annex, 4.2.2(f)",
            "Backup copies are kept for periods that business and law require.",
            ("retention", "locks"),
            "Whether the periods are those that business and law require.",
        ),
        Requirement(
            "Annex, 4.2.3",
            "Check the integrity of backup copies regularly.",
            ("integrity", "objects", "databases", "drills of a year"),
            "Each drill opens a sample of the sealed objects, not all.",
        ),
        Requirement(
            "Annex, 4.2.6",
            "Test regularly that backup copies and redundancies can be recovered, and document the results.",
            ("databases", "objects", "service", "rto", "drills of a year"),
            "Knowledge and availability of staff; corrective action.",
        ),
    ),
    (
        "The continuity and disaster recovery plan: its scope, roles, contacts and conditions (4.1.1 to 4.1.3)",
        "Redundancy of facilities, equipment, staff and communication channels (4.2.4, 4.2.5)",
        "Crisis management: roles, communication, measures, information from CSIRTs and authorities, its tests (4.3)",
        "Systems and data that this platform does not keep",
    ),
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (FINANCIAL, NIS2)}
