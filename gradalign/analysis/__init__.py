"""From stored rollouts to directions, alignment and the summary. Arrays only, no models."""
