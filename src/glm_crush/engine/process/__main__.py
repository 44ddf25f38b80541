"""`python -m glm_crush.engine.process FD [MODULE]`: the child. Started by `SpawnedChild` only.

It cannot outlive its parent: the kernel kills it when the thread that started it is gone, and the socket's end tells
it so where there is no such service. Ctrl-C and SIGTERM, which terminals and service managers send to whole groups,
are the parent's to answer.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# Where memory runs out the kernel is to end the engine, which comes back, rather than the server.
_OOM_SCORE = "500"


def main() -> int:
    """Run the host; returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        with contextlib.suppress(OSError):  # not everybody may; it is only a preference
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    link = socket.socket(fileno=int(sys.argv[1]))
    # Imported once the parent's death would be noticed.
    from glm_crush.engine.process.host import EngineHost

    for module in sys.argv[2:]:
        import_module(module)
    return EngineHost(link).run()


if __name__ == "__main__":
    sys.exit(main())
