"""The Kubernetes objects of an installation, as plain dictionaries."""
