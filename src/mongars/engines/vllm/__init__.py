"""vLLM as an engine, for GPUs; the extra is `vllm`."""
