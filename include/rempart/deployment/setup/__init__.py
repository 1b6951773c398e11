"""Prepare what processes need before they start: paths, ports, settings, secrets, certificates, programs."""
