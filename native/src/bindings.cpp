// Python bindings of the native core (placeholder until the executor lands).
#include <nanobind/nanobind.h>

NB_MODULE(_native, m) { m.doc() = "Native kernels and executor of GLM-Crush."; }
