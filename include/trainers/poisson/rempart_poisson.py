"""A trainer for counts: Poisson regression, whose predictions are never below zero.

The module is what the entry point names. Nothing heavy is imported when it is: Airflow imports it when it reads DAGs.
"""

from rempart.errors import TrainingError


def schema(task):
    """JSON Schema of each parameter by name: the form of a run in Airflow offers these."""
    return {"alpha": {"type": "number", "minimum": 0, "maximum": 1e12}}


def check(params, task):
    """Raises TrainingError for what the trainer cannot do, before a job is ordered."""
    if task != "regression":
        raise TrainingError("poisson is for a regression", "Use another trainer for a classification.")
    if unknown := set(params) - {"alpha"}:
        raise TrainingError(f"poisson has no parameter '{min(unknown)}'", "Use a known parameter: alpha, leave_out.")
    if not 0 <= params.get("alpha", 0) <= 1e12:
        raise TrainingError("poisson: 'alpha' must be from 0 to 1e+12", "Correct trainer.params.alpha.")


def fit(inputs, target, params, seed):
    """A fitted estimator. inputs: float32 [rows, columns], NaN for null; target: float64 [rows], none below zero."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import PoissonRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if target.min() < 0:
        raise TrainingError("poisson: the target has values below zero", "Use another trainer, or another target.")
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        PoissonRegressor(alpha=float(params.get("alpha", 1.0)), max_iter=1000),
    )
    return model.fit(inputs, target)
