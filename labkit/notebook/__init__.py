"""labkit in IPython: magics, completion and rich display."""
