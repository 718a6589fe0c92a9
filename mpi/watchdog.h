// Watchdog: what happens when a wait does not end. Internal to mpi/.
//
// A rank whose limit is reached asks the peers it misses whether they are waiting too. One that waits answers
// with what it waits for; one that is stopped, crashed in a loop or still computing does not. So the line on
// the terminal names the rank at the root of the silence, not the next victim of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "mpi/flight.h"

namespace contender {

// Communicator of the questions; between init_mpi and finalize_mpi.
void start_watchdog();

// The last collectives of this rank, for the dump. record_begin returns a number for record_done.
int64_t record_begin(const Group::Impl& group, const char* name, int64_t collective);
void record_done(int64_t number);

// One wait. `tick` is called after every poll that found messages missing.
class Watch {
 public:
  explicit Watch(const Pending::Impl& flight);
  void tick();

 private:
  void answer_questions();
  void ask_peers();
  [[noreturn]] void report(const std::vector<int>& lost, double waited_s);

  const Pending::Impl& flight_;
  int64_t start_ns_;
  int64_t last_ns_;
  int64_t answered_ns_;
  int64_t asked_ns_ = 0;                // 0: not yet
  std::map<int, std::string> answers_;  // by world rank
};

}  // namespace contender
