"""The engine `server`: vLLM servers that run already, over HTTP."""
