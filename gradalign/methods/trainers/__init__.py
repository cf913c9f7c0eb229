"""Losses as trainers ship them, a module per trainer: `trl/gkd` is in `trl.py`."""
