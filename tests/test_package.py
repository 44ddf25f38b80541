"""The package as a whole: it imports, is typed and carries its version."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import glm_crush


def test_the_version_of_the_package_is_that_of_the_distribution() -> None:
    assert glm_crush.__version__ == version("glm-crush")


def test_the_package_declares_that_it_is_typed() -> None:
    assert (Path(glm_crush.__file__).parent / "py.typed").exists()
