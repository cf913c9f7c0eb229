"""A run in the terminal: tables that fit, the answer, one question."""
