"""The HTTP server: `app.py` composes it, one adapter per protocol."""
