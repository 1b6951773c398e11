"""Sections of a pipeline file on its champion at work: scoring, serving, watching."""
