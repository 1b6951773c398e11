"""What a candidate shows on held-out rows, and the rules by which the gate judges it: metrics, resamples, verdict."""
