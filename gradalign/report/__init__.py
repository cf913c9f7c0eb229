"""A run on disk: schemas, reading and writing, the summary."""
