// What can be read about this machine without starting anything.
#pragma once

#include <cstdint>
#include <string>

namespace contender {

struct MachineFacts {
  std::string cpu;           // model name
  std::string vectors;       // widest vector instructions: "AVX-512", "AVX2 + FMA", "SSE"
  int cores = 1;             // usable by this process
  int64_t memory_bytes = 0;  // of the machine or of the container's limit, the smaller
  int64_t available_bytes = 0;
  int64_t disk_free_bytes = 0;  // under the current directory
  std::string mpi;              // library and version
  std::string container;        // what says so, "" outside of one
  bool seccomp = false;         // ranks may not read each other's memory (CMA)
  bool root = false;
  std::string gpu;   // names and driver, or why there is none
  std::string nccl;  // version, or that there is none
};
MachineFacts read_machine_facts();

}  // namespace contender
