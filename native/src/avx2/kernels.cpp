// AVX2, FMA and F16C: eight lanes, vpmaddubsw for the integer formats.
#include "../generic/kernel_table.h"

namespace glm {

const KernelTable* avx2_kernels() {
  static constexpr KernelTable table = make_kernel_table("avx2");
  const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return runs ? &table : nullptr;
}

}  // namespace glm
