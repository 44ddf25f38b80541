"""/v1/batches: `lines` reads the input, `store` keeps what is done, `runner` does it in idle time, `results` writes the
files, `routes` is the API. `store` imports SQLAlchemy.
"""
