"""Predictions that others ask for: the scorer's protocol and its clients, and the log of what it answered."""
