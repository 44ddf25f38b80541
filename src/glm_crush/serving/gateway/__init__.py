"""The gateway in front of every protocol: who asks, what they may ask, how much of it, and a record of it.

Above: the middleware of the HTTP adapters, and later gRPC, WebSocket and MCP. Below: `storage` for keys, records and
usage, Redis for limits that several servers share. It knows nothing of prompts and replies, only their token counts.
"""
