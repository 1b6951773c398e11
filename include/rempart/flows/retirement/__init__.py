"""Retire versions of models: delete the files of those that nothing needs any more, with evidence."""
