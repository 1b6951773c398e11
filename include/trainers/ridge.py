"""Example of a trainer of one's own: ridge regression, with nulls filled by the column's median.

Named in a pipeline file as `trainer: {use: "include/trainers/ridge.py:fit", params: {alpha: 10.0}}`.
"""


def fit(inputs, target, params, seed):
    """A fitted estimator. inputs: float32 [rows, columns], NaN for null; target: float64 [rows]."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        Ridge(alpha=float(params.get("alpha", 1.0)), random_state=seed),
    )
    return model.fit(inputs, target)
