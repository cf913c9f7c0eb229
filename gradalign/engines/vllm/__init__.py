"""The engine `vllm`: vLLM in a process of its own."""
