#include "grpo/run.h"

namespace contender {

void Run::save() {}
bool Run::load(const std::string&, bool) { return false; }

}  // namespace contender
