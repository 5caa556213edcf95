"""Certificates of servers, checked as Go checks them, and so Docker: by clients of daemons, registries and syslog."""

from __future__ import annotations

import ssl


def trusting(authority: str = "") -> ssl.SSLContext:
    """A client's context that trusts the authorities in a file, or the system's. Raises OSError, ssl.SSLError.

    From 3.13 on Python refuses authorities and certificates without some extensions of RFC 5280; Docker's own
    instructions make such ones (https://docs.docker.com/engine/security/protect-access/).
    """
    context = ssl.create_default_context(cafile=authority or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
