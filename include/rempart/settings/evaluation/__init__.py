"""How a model is measured honestly: the sections `holdout`, `validation` and `backtest` of a pipeline file."""
