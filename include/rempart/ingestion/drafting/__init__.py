"""Sections of a drafted pipeline file, each as lines of YAML with the comments that explain them."""
