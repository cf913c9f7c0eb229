"""How a response is read: what of it is said, and which answer or option it gives."""
