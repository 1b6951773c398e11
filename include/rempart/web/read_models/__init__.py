"""Build the content of the pages from facts, as frozen dataclasses.

Pure. The JSON under /rempart/api is made of them.
"""
