"""Answers of a cluster's API server, for all that makes pods in pools."""
