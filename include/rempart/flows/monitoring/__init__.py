"""Notify people about failures: heartbeats, alerts, figures."""
