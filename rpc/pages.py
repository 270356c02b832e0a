"""Page tokens: where the next page of a list begins, in a form that clients hand back and do not read."""

from __future__ import annotations

import base64
import binascii

from ..errors import InvalidInput

DEFAULT_PAGE = 100
MAX_PAGE = 1000
_MAX_TOKEN = 400


def page_size(asked: int) -> int:
    """Entries of a page: 100 unless asked otherwise; raises `InvalidInput` for more than 1000."""
    if asked > MAX_PAGE:
        raise InvalidInput(f"A page of {asked} entries is too large.", f"Ask for at most {MAX_PAGE} at a time.")
    return asked or DEFAULT_PAGE


def page_token(of: str, last: str) -> str:
    """The token of the page after the entry `last` of the list `of`."""
    return base64.urlsafe_b64encode(f"{of}:{last}".encode()).decode().rstrip("=")


def page_start(of: str, token: str) -> str:
    """The entry after which the page begins, "" for the first one; raises `InvalidInput` for a foreign token."""
    if not token:
        return ""
    try:
        padded = token[:_MAX_TOKEN] + "=" * (-len(token) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    kind, _, last = text.partition(":")
    if kind != of or not last or len(token) > _MAX_TOKEN or "\0" in last:
        raise InvalidInput("The page token is none of this list.", "Send next_page_token of the page before.")
    return last
