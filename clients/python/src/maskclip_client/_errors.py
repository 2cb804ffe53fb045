"""What can go wrong, as exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional


class MaskclipError(Exception):
    """Any failure of this package."""


@dataclass(frozen=True)
class Problem:
    """A problem as the server tells it (RFC 9457)."""

    type: str
    """The kind of problem, as in `/problems/image-not-held`. It never changes its meaning."""
    title: str
    """The kind in words."""
    status: int
    """The HTTP status."""
    detail: Optional[str] = None
    """What is wrong with this request."""
    instance: Optional[str] = None
    """The request's id, as in the server's log."""
    path: Optional[str] = None
    """The field at fault, as in `classes[1].name`."""
    limit: Optional[Mapping[str, Any]] = None
    """The setting of the server that was exceeded: its `name` and its `value`."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Problem:
        """Reads a problem. Members that it does not know are left out."""
        known = {name: body[name] for name in cls.__dataclass_fields__ if name in body}
        return cls(**{"type": "about:blank", "title": "", "status": 0, **known})


class UnreadableImage(MaskclipError):
    """An image of several cannot be read here, so the server has not seen it. `__cause__` says why."""


class ProblemError(MaskclipError):
    """The server has answered with a problem."""

    def __init__(self, problem: Problem, retry_after_seconds: Optional[float] = None) -> None:
        super().__init__(problem.detail or problem.title or f"status {problem.status}")
        self.problem = problem
        self.retry_after_seconds = retry_after_seconds
        """Seconds after which the server thinks a repeat worth a try; `None` where it names none."""
