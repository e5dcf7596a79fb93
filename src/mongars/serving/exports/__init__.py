"""Serve YAML, Kubernetes manifests, a Helm chart and Compose files, from one configuration."""
