"""HTTP/1.1 connections of the API and of Serve's proxy: limits on requests before they are authenticated."""
