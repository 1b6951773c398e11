"""Explanations of a model from its inputs and outputs alone: importance, dependence, errors by group, contributions."""
