"""What the ledger holds of candidates: who trained them, on which rows, and how they were measured."""
