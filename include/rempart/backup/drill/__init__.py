"""Parts of a restore drill: sandbox, checks, simulated attack and report."""
