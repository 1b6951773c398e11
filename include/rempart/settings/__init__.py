"""rempart.yaml, pipeline files and the catalogue of operators: the only reader of configuration and environment."""
