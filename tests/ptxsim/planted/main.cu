#include <cstring>

#include "bugs.h"

namespace planted {
std::vector<Bug>& bugs() {
  static std::vector<Bug> all;
  return all;
}
}  // namespace planted

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--list") == 0) {
    for (const planted::Bug& b : planted::bugs()) std::printf("%s\t%s\n", b.name, b.words);
    return 0;
  }
  for (const planted::Bug& b : planted::bugs())
    if (argc == 2 && std::strcmp(argv[1], b.name) == 0) {
      b.run();
      std::fprintf(stderr, "nobody noticed\n");
      return 0;
    }
  std::fprintf(stderr, "usage: planted_bugs --list | NAME\n");
  return 2;
}
