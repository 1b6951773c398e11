"""What is decided and made before a process starts: paths, ports, settings, secrets, certificates, programs."""
