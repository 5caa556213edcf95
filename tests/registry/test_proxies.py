"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as Go reads them."""

from __future__ import annotations

import pytest

from labkit.registry.proxies import proxy_for

PROXIES = {"HTTP_PROXY": "http://p:1", "https_proxy": "q:2"}


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxy"),
    [
        ("http://r/v2/", "", "http://p:1"),
        ("https://r/v2/", "", "http://q:2"),
        ("http://localhost:5000/v2/", "", ""),
        ("http://127.0.0.1:5000/v2/", "", ""),
        ("http://[::1]:5000/v2/", "", ""),
        ("http://r/v2/", "*", ""),
        ("http://r.example.com/v2/", "example.com", ""),
        ("http://r.example.com/v2/", ".example.com", ""),
        ("http://r.example.com/v2/", "*.example.com", ""),
        ("http://example.com/v2/", ".example.com", "http://p:1"),
        ("http://notexample.com/v2/", "example.com", "http://p:1"),
        ("http://example.com/v2/", "other.com, EXAMPLE.com", ""),
        ("http://example.com:5000/v2/", "example.com:5000", ""),
        ("http://example.com/v2/", "example.com:5000", "http://p:1"),
        ("http://10.1.2.3/v2/", "10.0.0.0/8", ""),
        ("http://11.1.2.3/v2/", "10.0.0.0/8", "http://p:1"),
        ("http://10.1.2.3/v2/", "10.1.2.3", ""),
        ("http://[2001:db8::1]/v2/", "2001:db8::/32", ""),
        ("http://r/v2/", "10.0.0.0/99", "http://p:1"),
    ],
)
def test_which_proxy(url: str, no_proxy: str, proxy: str) -> None:
    assert proxy_for(url, {**PROXIES, "NO_PROXY": no_proxy}) == proxy


def test_no_proxy_without_one() -> None:
    assert proxy_for("http://r/", {"https_proxy": "q"}) == ""
