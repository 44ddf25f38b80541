"""New settings for a running server: read again, checked whole, put in force at once or not at all."""
