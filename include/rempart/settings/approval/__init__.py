"""Who may approve a model, until when, and for whom: a section of the pipeline file and one of rempart.yaml."""
