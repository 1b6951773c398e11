"""The restore drill: a restore in scratch space, its proofs, and its report."""
