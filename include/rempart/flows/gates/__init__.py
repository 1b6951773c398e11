"""Measure what a candidate shows at the gate: it opens models and held-out rows; the rules themselves are pure."""
