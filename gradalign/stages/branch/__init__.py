"""Targeted rollouts: force each candidate, let the student finish, verify."""
