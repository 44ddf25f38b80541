"""The OpenAI protocol: chat completions, completions and models, with their SSE streams."""
