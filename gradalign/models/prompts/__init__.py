"""Prompts to token ids by chat templates, checked against what they say; ids back to text."""
