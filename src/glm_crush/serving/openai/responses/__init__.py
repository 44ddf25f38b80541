"""/v1/responses: `protocol` and `items` say what clients send, `turn` what that asks of a model, `writer` what comes
back, `store` keeps it, `run` and `runs` carry it out, `routes` is the API. `store` imports SQLAlchemy.
"""
