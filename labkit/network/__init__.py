"""Networks of containers (moby `daemon/libnetwork`): addresses, names, published ports."""
