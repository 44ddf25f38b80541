"""Ollama's API over the neutral chat turn, the served models and the store."""
