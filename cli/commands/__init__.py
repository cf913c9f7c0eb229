"""The commands, one module each: what it asks for, and what it prints."""
