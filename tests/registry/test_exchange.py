"""What is told of a request: enough to explain it, and never a secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.registry.credentials import Credentials
from labkit.registry.exchange import shown_received, shown_sent, shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://r/v2/_catalog?n=100&last=a/b", "https://r/v2/_catalog?n=100&last=a/b"),
        ("https://r/token?service=s&scope=repository:a:pull,push", "https://r/token?service=s&scope=repository:a:pull,push"),
        ("https://u:p@s3/x?X-Amz-Signature=abc&n=1", "https://s3/x?X-Amz-Signature=(hidden)&n=1"),
        ("/v2/x/blobs/uploads/1?_state=abc&digest=sha256:1", "/v2/x/blobs/uploads/1?_state=(hidden)&digest=sha256:1"),
        ("https://r/x#token=1", "https://r/x"),
        ("https://[", "(malformed URL)"),
    ],
)  # fmt: skip
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=12))
def test_no_unknown_query_value_gets_through(secret: str) -> None:
    shown = shown_url(f"https://r/x?signature={secret.replace('&', '').replace('#', '').replace(';', '')}")
    assert shown == "https://r/x?signature=(hidden)"


def test_authorization_is_named_and_hidden() -> None:
    basic = Credentials("me", "pass").basic
    assert shown_sent({"Authorization": basic}) == (("Authorization", "Basic me:(hidden)"),)
    assert shown_sent({"Authorization": "Bearer abc"}) == (("Authorization", "Bearer (hidden)"),)
    assert shown_sent({"Authorization": "Basic %%%"}) == (("Authorization", "Basic (hidden)"),)


def test_headers_that_matter() -> None:
    sent = {"User-Agent": "x", "Range": "bytes=1-2", "Accept": "a", "Cookie": "c"}
    assert shown_sent(sent) == (("Accept", "a"), ("Range", "bytes=1-2"))
    received = {
        "Date": "x",
        "Set-Cookie": "s",
        "RateLimit-Limit": "100;w=1",
        "OCI-Subject": "sha256:1",
        "Location": "/x?a=b",
    }
    assert dict(shown_received(received)) == {
        "RateLimit-Limit": "100;w=1",
        "OCI-Subject": "sha256:1",
        "Location": "/x?a=(hidden)",
    }
    assert shown_received({"Link": '</v2/x?n=1&t=s>; rel="next"'}) == (("Link", '</v2/x?n=1&t=(hidden)>; rel="next"'),)
