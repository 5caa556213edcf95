"""labkit: a Jupyter-first laboratory for Docker's architecture.

A real container engine that you can open up: it speaks the Docker Engine API and shows, for whatever it
just did, the kernel calls that did it.
"""

from __future__ import annotations

__version__ = "0.1.0"
