"""Verifiers in processes of their own, with a hard time limit."""
