"""What schemathesis checks of each GraphQL reply instead of its own rule, run inside the client's environment.

Its own counts every error of a resolver as the server's, even `there is no such key`. Ours carry the status that the
same refusal has over HTTP: one of 500 or more is the server's.
"""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.check
def only_refusals(_ctx: Any, response: Any, _case: Any) -> None:
    """No reply is a 5xx, and none holds an error whose status is one."""
    assert response.status_code < 500, f"status {response.status_code}"
    for error in response.json().get("errors", []):
        status = error.get("extensions", {}).get("status")
        assert isinstance(status, int), f"an error without a status: {error}"
        assert status < 500, error["message"]
