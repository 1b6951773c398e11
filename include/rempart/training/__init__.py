"""Training: the job contract, the built-in trainer, the job's entry point and the backends that run it."""
