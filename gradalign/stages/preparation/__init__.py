"""What happens before a model runs: checks, prompts rendered, run.json begun or compared."""
