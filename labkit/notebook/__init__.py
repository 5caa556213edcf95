"""labkit in IPython: the magics, their completion, and how SDK objects look. Talks to the engine over HTTP only."""
