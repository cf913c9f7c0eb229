"""A run on disk: schemas, whole-or-nothing files, run.json. Nothing else touches its files."""
