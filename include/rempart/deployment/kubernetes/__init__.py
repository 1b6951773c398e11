"""The stack in a Kubernetes cluster."""
