"""Sources: each kind extracts rows or files from one place into deliveries of the landing bucket.

A new kind is one module with a `Source`, one entry in `registry.SOURCES`, and its settings in
`rempart.settings.sources`.
"""
