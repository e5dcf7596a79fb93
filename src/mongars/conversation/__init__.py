"""The chat use case: conversation history, and assembly of prompts that fit the model's context window."""
