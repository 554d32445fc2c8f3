"""Training and prediction of a recipe."""
