"""The Ray Serve application: configuration, replica, HTTP interface, deployment and control."""
