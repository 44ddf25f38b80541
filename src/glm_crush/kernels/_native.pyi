"""The compiled module: native/src/bindings*.cpp. `native.py` is the only module that may import it."""

from types import ModuleType

import numpy as np
import numpy.typing as npt

from glm_crush.kernels.native import PackedWeights
from glm_crush.kernels.program import ForwardBatch, Program
from glm_crush.kernels.sampling import SampleBatch

_Float32 = npt.NDArray[np.float32]
_Int32 = npt.NDArray[np.int32]
_Bytes = npt.NDArray[np.uint8]

kernels: ModuleType
"""Single kernels of each variant, for the conformance tests."""

class Executor:
    def __init__(
        self,
        program: Program,
        packed: PackedWeights,
        *,
        num_threads: int,
        num_blocks: int,
        max_tokens: int,
        kv_dtype: str,
        kernels: str | None,
        last_step: int = 0,
    ) -> None: ...
    def forward(
        self,
        batch: ForwardBatch,
        logits: _Float32,
        sample_batch: SampleBatch | None,
        token_ids: _Int32 | None,
        logprobs: _Float32 | None,
        top_ids: _Int32 | None,
        top_logprobs: _Float32 | None,
    ) -> None: ...
    def decode(self, batch: ForwardBatch, logits: _Float32, sample_batch: SampleBatch, drawn: _Int32) -> None: ...
    def read_hidden(self, out: _Float32) -> None: ...
    def write_hidden(self, values: _Float32) -> None: ...
    def load_adapter(self, slot: int, parts: list[tuple[int, _Float32, _Float32]]) -> None: ...
    def unload_adapter(self, slot: int) -> None: ...
    def copy_blocks(self, sources: _Int32, targets: _Int32) -> None: ...
    def read_blocks(self, blocks: _Int32, data: _Bytes) -> None: ...
    def write_blocks(self, blocks: _Int32, data: _Bytes) -> None: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def kernels(self) -> str: ...
    @property
    def num_threads(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...

def sample(
    logits: _Float32,
    batch: SampleBatch,
    token_ids: _Int32,
    logprobs: _Float32,
    top_ids: _Int32,
    top_logprobs: _Float32,
) -> None: ...
