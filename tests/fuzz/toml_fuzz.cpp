// A configuration: it loads, and what it is written out as loads as the same; or all its problems are said,
// each with its place.
#include "base/config.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace contender;
  using namespace contender::fuzz;
  const ModelReader no_model = [](const std::string& dir) -> ModelConfig {
    throw Error(ExitCode::kConfig, dir + ": no model");
  };
  const MemoryFile bytes(text_of(data, size));
  may_refuse([&] {
    const RunConfig config = load_config(bytes.path(), {}, 2, no_model);
    const MemoryFile written(config_text(config));
    require(config_fingerprint(load_config(written.path(), {}, 2, no_model)) == config_fingerprint(config));
  });
  return 0;
}
