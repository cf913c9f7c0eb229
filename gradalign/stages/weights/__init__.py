"""Stages that take derivatives of the student by its weights, for `--alignment weights`."""
