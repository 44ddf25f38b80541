"""Filters of what goes into models and what comes out of them."""
