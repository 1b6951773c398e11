"""The language of expressions in feature views: text to tree, and the type of each part. Pure.

Nothing that a person writes reaches a database: `features.expressions` writes the SQL of a checked tree.
docs/adr/0114-expressions.md tells why.
"""
