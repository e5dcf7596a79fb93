"""The vLLM engine, for GPUs; needs the extra `vllm`."""
