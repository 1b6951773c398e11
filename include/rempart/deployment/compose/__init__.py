"""Run the stack in containers: files, images, certificates, health checks."""
