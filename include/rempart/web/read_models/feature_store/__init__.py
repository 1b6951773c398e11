"""What the ledger tells of the feature store: age of online values, comparison with the snapshot."""
