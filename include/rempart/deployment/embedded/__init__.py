"""Run the embedded stack: real servers as local, supervised processes.

`lifecycle` starts and stops it; `status` and `logs` describe it.
"""
