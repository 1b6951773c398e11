"""Tells people what turned red: heartbeats, alerts, figures."""
