"""Deployment of the platform: as local processes, as containers, in a Kubernetes cluster."""
