"""The engine in a process of its own, watched by the one that serves.

Parent: `EngineProcess` (what serving sees) over `Supervisor` (the thread that keeps a child alive) over
`ChildProcess`. Child: `python -m glm_crush.engine.process` runs an `EngineHost` around an `Engine`. Between them a
socket pair with the messages of `wire`. See docs/design/engine-process.md.
"""
