"""When a request is sent again, and after how long."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

AGAIN = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may succeed."""


@dataclass(frozen=True)
class Retry:
    """How often and how long to try.

    A server that is full names the seconds to wait (`Retry-After`), and they are waited. Where it names none, a 429 will
    not get better by waiting and is not repeated; other statuses and broken connections are, after times that double.
    """

    attempts: int = 5
    """The most times a request is sent; 1 for no repeat."""
    longest_seconds: float = 60.0
    """A wait longer than this is not waited: the error is raised at once."""
    first_seconds: float = 0.2
    """The wait before the first repeat where the server names none."""

    def seconds(self, attempt: int, status: Optional[int], headers: Mapping[str, str]) -> Optional[float]:
        """The seconds to wait before the request is sent again after its `attempt`-th failure, counted from 1.

        `status` is `None` for a connection that broke. Returns `None` if it is not sent again.
        """
        if attempt >= self.attempts or (status is not None and status not in AGAIN):
            return None
        named = retry_after(headers)
        if named is None and status == 429:
            return None
        backoff: float = self.first_seconds * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        wait = backoff if named is None else named
        return wait if wait <= self.longest_seconds else None


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """The seconds in `Retry-After`. This server writes no dates."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None
