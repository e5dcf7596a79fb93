"""The chat use case: history, prompt assembly within the context budget."""
