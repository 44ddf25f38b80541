"""Anthropic's Messages API over the neutral chat turn."""
