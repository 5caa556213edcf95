"""Where images come from: `labkit hub` makes them on this machine, out of Debian packages or the host's programs."""
