"""The llama.cpp engine: a child process, reached over HTTP on a private UNIX socket."""
