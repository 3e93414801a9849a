"""What `xent.backend` asks for in this thread."""

from __future__ import annotations

import threading


class Request(threading.local):
    """The name asked for; an attribute of the instance, so that torch.compile can guard on it."""

    def __init__(self) -> None:
        self.name = "auto"


request = Request()
