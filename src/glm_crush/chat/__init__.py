"""From messages to prompt and back: templates, reasoning and tool-call parsers, the ChatModel backends."""
