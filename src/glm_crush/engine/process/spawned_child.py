"""A child that has been started and not yet been told what to build: it imports meanwhile.

Above: `ChildProcess`, and `glm serve`, which starts one before it does anything else. Imports next to nothing itself.
"""

from __future__ import annotations

import socket
import subprocess
import sys

__all__ = ["SpawnedChild"]

# Some steps of many clients: beyond this the child waits for the parent to read.
_BUFFER_BYTES = 2**20


class SpawnedChild:
    """One process and the parent's end of its socket pair.

    Args:
        preload: a module that the child imports before it is told anything; None = none.
    """

    def __init__(self, preload: str | None = None) -> None:
        self.taken = False  # somebody else sees to its end
        self.link, theirs = socket.socketpair()
        with theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            # -P: what lies in the working folder is not imported in place of the real modules.
            command = [sys.executable, "-P", "-m", "glm_crush.engine.process", str(theirs.fileno())]
            command += [] if preload is None else [preload]
            self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        self.link.setblocking(False)

    def discard(self) -> None:
        """End it, if nobody has taken it."""
        if not self.taken:
            self.taken = True
            self.process.kill()
            self.process.wait()
            self.link.close()
