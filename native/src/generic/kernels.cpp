// The portable variant: any CPU, four lanes.
#include "kernel_table.h"

namespace glm {

const KernelTable* generic_kernels() {
  static constexpr KernelTable table = make_kernel_table("generic");
  return &table;
}

}  // namespace glm
