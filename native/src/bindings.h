#pragma once

#include <nanobind/nanobind.h>

#include <vector>

namespace glm {
struct SampleRow;
}

void bind_executor(nanobind::module_& m);  // bindings_executor.cpp
void bind_kernels(nanobind::module_& m);   // bindings_kernels.cpp: single kernels, for the conformance tests
void bind_sampling(nanobind::module_& m);  // bindings_sampling.cpp

// Sampling rows over the arrays of a SampleBatch; sizes and ids checked, since the sampler trusts them. The rows
// point into the arrays, which `keep` holds alive.
std::vector<glm::SampleRow> read_sample_rows(nanobind::handle batch, std::vector<nanobind::object>& keep, int vocab_size);
