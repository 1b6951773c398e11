"""Move the platform to another site, and back."""
