"""Exports of a deployment: Serve YAML, Kubernetes manifests, a Helm chart and Compose files."""
