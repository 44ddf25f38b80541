"""Uploaded files: `upload` reads them, `store` keeps them, `routes` is the API. `store` imports SQLAlchemy."""
