"""Keys that the cockpit adds to the scope of a request.

The boundary sets them and pages read them; like the boundary, this module imports nothing.
"""

AIRFLOW = "rempart.airflow"
"""Airflow's own application, for what its users do through a page of ours."""
