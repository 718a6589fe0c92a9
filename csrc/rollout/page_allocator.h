// Pages of the KV cache: a free list and a reference count per page. A page is shared by sequences with the
// same prefix and is free when the last of them releases it. The order in which pages are handed out is a
// function of the calls alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/error.h"

namespace contender {

class PageAllocator {
 public:
  explicit PageAllocator(int64_t num_pages) : references_(static_cast<size_t>(num_pages), 0) {
    free_.reserve(static_cast<size_t>(num_pages));
    for (int64_t p = num_pages - 1; p >= 0; --p) free_.push_back(static_cast<int32_t>(p));
  }

  int64_t num_pages() const { return static_cast<int64_t>(references_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }

  // Appends `count` fresh pages to a page table.
  void allocate(int64_t count, std::vector<int32_t>& pages) {
    CHECK(count <= num_free(), "{} pages wanted, {} free", count, num_free());
    for (int64_t i = 0; i < count; ++i) {
      const int32_t page = free_.back();
      free_.pop_back();
      references_[page] = 1;
      pages.push_back(page);
    }
    peak_ = std::max(peak_, num_pages() - num_free());
  }
  void retain(int32_t page) {
    CHECK(references_[page] > 0, "page {} is free", page);
    ++references_[page];
  }
  void release(int32_t page) {
    CHECK(references_[page] > 0, "page {} is free", page);
    if (--references_[page] == 0) free_.push_back(page);
  }
  void release_all(std::vector<int32_t>& pages) {
    for (const int32_t page : pages) release(page);
    pages.clear();
  }

  // Most pages in use at a time since the last call.
  int64_t take_peak() {
    const int64_t peak = peak_;
    peak_ = num_pages() - num_free();
    return peak;
  }

 private:
  std::vector<int32_t> references_;
  std::vector<int32_t> free_;
  int64_t peak_ = 0;
};

}  // namespace contender
