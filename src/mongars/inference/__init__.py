"""LLMIntegration: the client that keeps answering when the cluster does not."""
