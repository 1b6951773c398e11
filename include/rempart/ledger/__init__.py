"""The ledger: append-only evidence of decisions, promotions, restore points and drills."""
