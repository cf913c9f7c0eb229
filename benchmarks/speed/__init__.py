"""Parts of throughput.py."""
