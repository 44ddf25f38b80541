"""`glm version`: what is installed and which kernels this machine runs."""

from __future__ import annotations

import typer

from glm_crush.cli.options import JsonOption

__all__ = ["version"]


def version(as_json: JsonOption = False) -> None:
    """Show the version, the Python and the machine."""
    import platform
    from importlib.metadata import version as installed_version

    facts = {
        "glm-crush": installed_version("glm-crush"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if as_json:
        import json

        typer.echo(json.dumps(facts))
        return
    typer.echo("\n".join(f"{name} {value}" for name, value in facts.items()))
