"""The server: one composition root (`app.py`) and one adapter per protocol.

Above: `cli`. Below: `chat`, `engine`. An adapter turns requests of its protocol into prompts and
`SamplingParams`, and `RequestOutput` into replies; it never touches scheduler, blocks or arrays.
"""
