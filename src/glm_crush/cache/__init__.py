"""Answers that were given before: exact and semantic response caches, in memory, SQL or Redis.

Above: `serving`, which decides what may be cached. Below: `storage`.
"""
