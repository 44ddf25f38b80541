#pragma once

#include <nanobind/nanobind.h>

void bind_executor(nanobind::module_& m);  // bindings_executor.cpp
void bind_kernels(nanobind::module_& m);   // bindings_kernels.cpp: single kernels, for the conformance tests
