"""Promote a candidate that passed the gate because a person approves it."""
