"""The engine `transformers`: batched sampling with shared prefixes, on any machine."""
