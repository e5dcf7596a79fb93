"""llama.cpp in a child process, spoken to over a private UNIX socket."""
