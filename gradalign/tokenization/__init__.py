"""Vocabularies as bytes: what a teacher with another tokenizer says of the student's tokens."""
