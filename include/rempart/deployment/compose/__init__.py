"""The stack in containers: their files, images, certificates and health checks."""
