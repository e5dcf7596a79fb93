"""What turns a prompt into tokens: the engine port, its implementations and base models."""
