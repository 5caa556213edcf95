"""The Docker Engine REST API: an HTTP server and one module of routes per object."""
