"""What the fields of one operation work with: the models, the accounts, and on whose behalf.

Above: the resolvers. Below: the gateway's admission of the operation.
"""

from __future__ import annotations

from dataclasses import dataclass

from glm_crush.serving.gateway.accounts import Accounts
from glm_crush.serving.gateway.admission import Admission
from glm_crush.serving.served_models import ServedModels

__all__ = ["OperationContext"]


@dataclass(kw_only=True)
class OperationContext:
    """One operation.

    Attributes:
        admission: of the request, or of the operation on a socket. num_begun: fields that have begun.
        num_numbers: in what it gives out, so that large results are written off the event loop.
    """

    models: ServedModels
    accounts: Accounts
    admission: Admission
    num_begun: int = 0
    num_numbers: int = 0

    async def begin(self, scope: str, field: str) -> None:
        """Called by every field of the root before it does anything.

        The first one is what the operation was admitted for; each further one counts as another request.

        Raises:
            AccessDeniedError, RateLimitError: the key may not, or not now.
        """
        self.num_begun += 1
        await self.admission.begin_another(scope, field, is_first=self.num_begun == 1)
