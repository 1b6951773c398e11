"""The embedded stack: starts, watches and stops real servers as local processes.

`lifecycle` is the door (up, down, status). Everything else is a step of it: `preflight` (what this machine must offer),
`layout` (paths and ports), `credentials` (secrets, generated once), `services` (what runs, as data), `launch` (one
service becomes a process), `supervision` (supervisord), and one module per kind of server with its bootstrap and its
health gate.
"""
