// Aligned and huge-page memory that frees itself.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace glm {

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

// 64-byte aligned, zeroed, with 64 spare bytes at the end.
template <typename T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t count) : size_(count) {
    const size_t bytes = (count * sizeof(T) + 64 + 63) / 64 * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
    std::memset(static_cast<void*>(data_.get()), 0, bytes);
  }
  T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T& operator[](size_t i) const { return data_.get()[i]; }

 private:
  std::unique_ptr<T, FreeDeleter> data_;
  size_t size_ = 0;
};

// Zeroed anonymous memory, in 2 MB pages where the kernel grants them; touched lazily.
class HugeBuffer {
 public:
  explicit HugeBuffer(size_t bytes) : bytes_((bytes + kPage - 1) / kPage * kPage) {
    void* p = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<unsigned char*>(p);
    ::madvise(data_, bytes_, MADV_HUGEPAGE);  // a hint: without it the memory is as good, only slower
  }
  HugeBuffer(HugeBuffer&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;
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
