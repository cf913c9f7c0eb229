"""The stages of a run, each a function from the tables before it to tables of its own."""
