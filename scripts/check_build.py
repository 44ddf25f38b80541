"""Whether a Python can build GLM-Crush: its version, its headers, its ensurepip, and a C++ compiler beside it.

    python3 scripts/check_build.py [--service]

The Makefile and scripts/install_service.sh ask it first, so that what is missing is named before minutes have gone by.
With `--service` the Python must also be one that a service without a home may use. Says everything that is missing and
exits with 1. It has to run on an older Python too (3.7).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig

CLOSED = ("/root", "/home")  # the unit has ProtectHome


def missing(*, service: bool) -> list[str]:
    """What is missing, a line each, with the remedy."""
    wants = []
    if sys.version_info < (3, 11):  # noqa: UP036 - that is what it is for
        found = ".".join(map(str, sys.version_info[:2]))
        wants.append(f"Python 3.11 or newer; {sys.executable} is {found}. Name another with PYTHON=")
    elif not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        wants.append("the headers of Python (apt-get install python3-dev)")
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        wants.append("Python's venv (apt-get install python3-venv)")
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++", "clang++")):
        wants.append("a C++ compiler (apt-get install g++)")
    home = os.path.realpath(sys.base_prefix)
    if service and home.startswith(CLOSED):
        wants.append(f"a Python that the service may read, and {home} is closed to it: PYTHON=/usr/bin/python3")
    return wants


if __name__ == "__main__":
    lines = missing(service="--service" in sys.argv[1:])
    for line in lines:
        print(f"GLM-Crush needs {line}", file=sys.stderr)
    sys.exit(bool(lines))
