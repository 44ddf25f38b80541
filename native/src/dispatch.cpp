// Chooses the kernel table once, at load.
#include <stdexcept>
#include <string>
#include <string_view>

#include "glm_crush/kernels.h"

namespace glm {

#if !defined(GLM_HAVE_X86)
const KernelTable* avx2_kernels() { return nullptr; }
const KernelTable* avx2_vnni_kernels() { return nullptr; }
const KernelTable* avx512_vnni_kernels() { return nullptr; }
#endif

const KernelTable& select_kernels(const char* name_or_null) {
  const std::string_view wanted = name_or_null ? name_or_null : "";
  struct Entry { std::string_view name; const KernelTable* (*table)(); };
  static constexpr Entry kEntries[] = {
      {"avx512_vnni", avx512_vnni_kernels}, {"avx2_vnni", avx2_vnni_kernels}, {"avx2", avx2_kernels}, {"generic", generic_kernels}};
  for (const Entry& entry : kEntries) {
    if (!wanted.empty() && wanted != entry.name) continue;
    if (const KernelTable* table = entry.table()) return *table;
    if (!wanted.empty()) {
      throw std::invalid_argument("kernels '" + std::string(wanted) + "' need instructions this CPU or build does not have; unset GLM_FORCE_KERNELS");
    }
  }
  throw std::invalid_argument("kernels '" + std::string(wanted) + "' are unknown; known: avx512_vnni, avx2_vnni, avx2, generic");
}

}  // namespace glm
