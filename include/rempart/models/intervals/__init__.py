"""Intervals around the predictions of a regression: their width, the graph that gives them, and what they cover."""
