"""A training that is not run: the student moved along an arm, and what its success would be."""
