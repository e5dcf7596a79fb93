"""llama.cpp in a child process, reached over HTTP on a private UNIX socket."""
