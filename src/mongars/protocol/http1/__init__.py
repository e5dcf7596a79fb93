"""HTTP/1.1 connections of both deployables: what a client may send before its request is read."""
