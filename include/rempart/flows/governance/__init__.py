"""Evidence, its export, audits, people, and the rules for networks."""
