"""Wire contracts shared by both deployables, without any input or output of their own."""
