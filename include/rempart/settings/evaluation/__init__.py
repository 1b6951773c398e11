"""How a model is measured honestly: its target, and the sections `holdout`, `validation` and `backtest`."""
