"""A server process over a scripted model, for tests that watch its memory or start several: prints its URL.

Arguments: JSON of gateway settings, then the home of its database (or nothing).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from glm_crush.config import ApiSettings, Settings, StorageSettings
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.app import create_app
from glm_crush.serving.reloading.reloading import Reloading
from glm_crush.serving.server import bind, run_server
from glm_crush.storage.lazy import LazyDatabase
from tests.serving.scripted import ScriptedEngine, scripted_model


def main() -> None:
    """Serve until told to stop."""
    limits = GatewaySettings(**json.loads(sys.argv[1]))
    database = LazyDatabase(StorageSettings(), Path(sys.argv[2])) if len(sys.argv) > 2 else None
    settings = ApiSettings(port=0, key="operator" if database else None, shutdown_timeout_seconds=1.0)
    engine = ScriptedEngine(script=lambda prompt: "x" * 20_000 if "long" in prompt else "Hello")
    with bind(settings) as bound:
        every = Settings(api=settings, gateway=limits)
        reloading = Reloading(every, lambda: every)
        models = [scripted_model(engine)]
        app = create_app(models, settings, gateway_settings=limits, database=database, reloading=reloading)
        run_server(app, bound, settings, limits, on_ready=lambda url: print(url, flush=True), reloading=reloading)


if __name__ == "__main__":
    main()
