"""Keys that the cockpit adds to the scope of a request.

The boundary sets them and pages read them; like the boundary, this module imports nothing.
"""

AIRFLOW = "rempart.airflow"
"""Key of Airflow's own application in a request's scope; our pages call its API in the name of their users."""
