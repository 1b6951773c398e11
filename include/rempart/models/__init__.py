"""Describe, judge, register and load models: features, encoding, format, gate, registry."""
