// The Python module glm_crush.kernels._native. Arrays and plain values cross, nothing else.
#include "bindings.h"

NB_MODULE(_native, m) {
  m.doc() = "Native kernels and executor of GLM-Crush.";
  bind_executor(m);
  bind_kernels(m);
  bind_sampling(m);
}
