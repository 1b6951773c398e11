"""The embedded stack: real servers as local processes, supervised.

`lifecycle` is its door (up, down); `status` and `logs` tell of it.
"""
