"""The prefix cache on disk: computed blocks outlive the process.

From above: `open` puts the parts together; `stored_prefixes` (in the engine's thread) says what to save and for whom to
restore; `store_thread` does it; `block_store` knows which block lies where; `journal` and `folder` are the files.
"""
