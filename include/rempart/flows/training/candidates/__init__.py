"""How candidates are ordered, and what the ledger holds of them: on which rows they were trained and measured."""
