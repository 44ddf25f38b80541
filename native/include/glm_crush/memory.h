// Aligned and huge-page memory that frees itself.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

namespace glm {

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

// 64-byte aligned, zeroed, with 64 spare bytes at the end. Large buffers come from the system as zeros, so their pages
// take no memory before they are used: short prompts touch little of what long ones need.
template <typename T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t count) : size_(count) {
    owned_.reset(std::calloc(count * sizeof(T) + 2 * kAlignment, 1));
    if (!owned_) throw std::bad_alloc();
    const uintptr_t start = reinterpret_cast<uintptr_t>(owned_.get());
    data_ = reinterpret_cast<T*>((start + kAlignment - 1) / kAlignment * kAlignment);
  }
  T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  static constexpr size_t kAlignment = 64;
  std::unique_ptr<void, FreeDeleter> owned_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

// Zeroed anonymous memory, in 2 MB pages where the kernel grants them; touched lazily.
class HugeBuffer {
 public:
  HugeBuffer() = default;
  explicit HugeBuffer(size_t bytes) : bytes_((bytes + kPage - 1) / kPage * kPage) {
    void* p = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<unsigned char*>(p);
    ::madvise(data_, bytes_, MADV_HUGEPAGE);  // a hint: without it the memory is as good, only slower
  }
  HugeBuffer(HugeBuffer&& other) noexcept { *this = std::move(other); }
  HugeBuffer& operator=(HugeBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~HugeBuffer() {
    if (data_) ::munmap(data_, bytes_);
  }
  unsigned char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kPage = size_t{2} << 20;
  unsigned char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace glm
