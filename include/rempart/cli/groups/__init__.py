"""Command groups: the file NAME.py holds the commands of `rempart NAME`, and its `group`."""
