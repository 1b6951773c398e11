"""Run the stack in a Kubernetes cluster."""
