"""Many generations over one WebSocket, each with an id of the client's own; and the log as it is written."""
