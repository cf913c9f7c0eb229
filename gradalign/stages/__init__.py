"""The stages that run models, each a function from the tables before it to tables."""
