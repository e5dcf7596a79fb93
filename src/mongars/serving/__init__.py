"""The Ray Serve application: configuration, replica, ingress, deployment and control."""
