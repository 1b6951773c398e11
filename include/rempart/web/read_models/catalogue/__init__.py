"""The catalogue of feature views, from the facts of the pages. Pure."""
