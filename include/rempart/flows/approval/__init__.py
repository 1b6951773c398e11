"""A person decides on a candidate that passed the gate: who may, until when, and what becomes of the answer."""
