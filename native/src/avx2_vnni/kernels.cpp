// AVX2 with AVX-VNNI: as AVX2, with vpdpbusd on 256 bits for the integer formats.
#include <cpuid.h>

#include "../generic/kernel_table.h"

namespace glm {

const KernelTable* avx2_vnni_kernels() {
  static constexpr KernelTable table = make_kernel_table("avx2_vnni");
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kAvxVnni = 1u << 4;  // leaf 7, subleaf 1
  const bool has_vnni = __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kAvxVnni);
  const bool runs = has_vnni && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return runs ? &table : nullptr;
}

}  // namespace glm
