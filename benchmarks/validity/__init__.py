"""Parts of `predictive_validity.py`: real training, predictors, and how well they agree."""
