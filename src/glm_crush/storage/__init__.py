"""Rows and blobs: one SQL database (SQLite or PostgreSQL) and content-addressed files.

Above: whoever keeps something durable (responses, files, batches, keys, caches). Below: SQLAlchemy Core. SQLAlchemy
takes as long to import as the server takes to start, so only `lazy` and `blobs` may be imported before it is needed.
"""
