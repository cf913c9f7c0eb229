"""Checkpoints: what their files hold, whether it fits together, and loading them."""
