"""The gate after sampling: looks at the responses before anything dear is done."""
