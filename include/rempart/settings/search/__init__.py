"""The section `trainer.search` of a pipeline file: which parameters are searched, and how long."""
