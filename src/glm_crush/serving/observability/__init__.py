"""What operators see of a running server: metrics, logs, traces. None of it holds prompts, replies or keys."""
