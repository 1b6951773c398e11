"""Tests of whole stacks. A package: the project that some of them share is stopped after the last of these tests."""
