// Whatever the file, its tensors lie in it and can be read, or it is refused.
#include <algorithm>
#include <vector>

#include "checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace contender;
  using namespace contender::fuzz;
  const MemoryFile bytes(text_of(data, size));
  may_refuse([&] {
    const SafetensorsFile file(bytes.path());
    for (const auto& tensor : file.tensors()) {
      const TensorInfo& info = tensor.second;
      require(0 <= info.begin && info.begin <= info.end && info.end <= static_cast<int64_t>(size));
      const int64_t rows = info.rows(), cols = info.cols();
      require(rows >= 0 && cols >= 0);
      std::vector<float> values(static_cast<size_t>(std::min<int64_t>(rows, 3) * std::min<int64_t>(cols, 3)));
      may_refuse([&] {  // of an integer type
        file.read(tensor.first, rows - std::min<int64_t>(rows, 3), std::min<int64_t>(rows, 3), 0,
                  std::min<int64_t>(cols, 3), values.data(), std::min<int64_t>(cols, 3));
      });
      uint8_t sum = 0;
      for (int64_t i = 0; i < info.end - info.begin; ++i) sum ^= static_cast<uint8_t>(file.data(info)[i]);
      (void)sum;
    }
  });
  return 0;
}
