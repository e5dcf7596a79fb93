"""The Kubernetes objects of an installation, as plain data."""
