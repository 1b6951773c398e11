"""Write, lock, list and prune restore points."""
