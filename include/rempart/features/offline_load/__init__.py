"""A load of the offline store: which rows are read, how they reach the database, and what of each view is made anew.

docs/adr/0116-what-a-load-reads.md says why.
"""
