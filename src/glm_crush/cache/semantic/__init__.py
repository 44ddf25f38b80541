"""Similar questions: which kept answer may be given to a question in other words, and what is learnt of it.

Above: `serving.response_cache`, which says what a question is. Below: vectors, SQL and Redis.
"""
