// Warps without an interpreter: a launch whose hooks the test calls itself. Instruction k of the program is
// on line k + 1 of t.cu; what it is does not matter, but for wgmma.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "check/checker.h"
#include "exec/warp.h"
#include "fault.h"

namespace ptxsim::testing {

struct Shape {
  int clusters = 1, ctas = 1, warps = 4;
  uint32_t shared_bytes = 8192;
};

class Rig {
 public:
  explicit Rig(Shape shape = {}) : shape_(shape) {
    static uint64_t serial = 1000000;
    program_.serial = ++serial;
    program_.module = &module_;
    module_.files[1] = "/src/t.cu";
    for (int k = 0; k < 64; ++k)
      texts_.push_back(std::make_unique<ptx::Instruction>(
          ptx::Instruction{.opcode = "op", .parts = {"op"}, .operands = {}, .loc = {k + 100, 1, k + 1}}));
    for (const auto& t : texts_) {
      program_.code.push_back({});
      program_.where.push_back(t->loc);
      program_.opcodes.push_back(t->opcode);
      program_.source.push_back(t.get());
    }
    program_.shared_variables.push_back({"tile", kSharedBase, 4096});
    launch_.program = &program_;
    launch_.grid = {static_cast<uint32_t>(shape.clusters * shape.ctas), 1, 1};
    launch_.cluster = {static_cast<uint32_t>(shape.ctas), 1, 1};
    launch_.block = {static_cast<uint32_t>(shape.warps * kWarpSize), 1, 1};
    launch_.name = "k";
  }
  ~Rig() { checker_.reset(); }

  ptx::Instruction& text(int pc) { return *texts_[static_cast<size_t>(pc)]; }
  Program& program() { return program_; }
  const Instr& at(int pc) { return program_.code[static_cast<size_t>(pc)]; }

  void begin() {
    if (checker_) return;
    checker_ = make_checker(launch_);
    launch_.check = checker_.get();
    for (int k = 0; k < shape_.clusters; ++k) begin_cluster(k);
  }
  // Another launch of the same grid over the same blocks.
  void next_launch() {
    checker_.reset();
    clusters_.clear();
    begin();
  }
  void end() {
    for (auto& c : clusters_) checker_->end_cluster(*c);
  }
  Cluster& cluster(int k = 0) {
    begin();
    return *clusters_[static_cast<size_t>(k)];
  }
  Warp& warp(int index, int cta = 0, int in_cluster = 0) {
    return cluster(in_cluster).ctas[static_cast<size_t>(cta)]->warps[static_cast<size_t>(index)];
  }
  Warp& block_warp(int block, int index = 0) { return warp(index, block % shape_.ctas, block / shape_.ctas); }

  // --- accesses: lane l uses address(l) ---
  using Address = std::function<uint64_t(int)>;
  void access(Warp& w, int pc, uint32_t mask, const Address& address, AccessInfo info) {
    uint64_t a[kWarpSize] = {};
    for (int l = 0; l < kWarpSize; ++l)
      if (mask >> l & 1) a[l] = address(l);
    w.check->access(w, at(pc), mask, a, info);
  }
  void load(Warp& w, int pc, const Address& address, uint32_t bytes = 4, uint32_t mask = kAllLanes) {
    access(w, pc, mask, address, {.access = Access::kRead, .bytes = bytes});
  }
  // Stores a value that no other store stores.
  void store(Warp& w, int pc, const Address& address, uint32_t bytes = 4, uint32_t mask = kAllLanes) {
    store_value(w, pc, address, ++value_, bytes, mask);
  }
  void store_value(Warp& w, int pc, const Address& address, uint64_t value, uint32_t bytes = 4,
                   uint32_t mask = kAllLanes) {
    access(w, pc, mask, address, {.access = Access::kWrite, .bytes = bytes});
    const uint64_t spread[2] = {value * 0x0101010101010101, value * 0x0101010101010101};
    for (int l = 0; l < kWarpSize; ++l)
      if (mask >> l & 1) std::memcpy(host(w, address(l)), spread, bytes);
  }
  void strong(Warp& w, int pc, Access access_kind, Order order, const Address& address, int lane = 0,
              Scope scope = Scope::kGpu, uint32_t bytes = 4) {
    access(w, pc, 1u << lane, address,
           {.access = access_kind, .order = order, .scope = scope, .bytes = bytes});
  }

  // --- order ---
  void syncthreads(int pc, int cta = 0, int in_cluster = 0) {
    auto& warps = cluster(in_cluster).ctas[static_cast<size_t>(cta)]->warps;
    for (Warp& w : warps) w.check->barrier_arrive(w, at(pc), w.live, 0, barrier_phase_);
    for (Warp& w : warps) w.check->barrier_leave(w, at(pc), w.live, 0, barrier_phase_);
    ++barrier_phase_;
  }
  void fence(Warp& w, Checker::Fence kind, Scope scope = Scope::kGpu, uint32_t mask = kAllLanes) {
    w.check->fence(w, at(60), mask, kind, scope);
  }

 private:
  std::byte* host(Warp& w, uint64_t address) {
    if ((address & kTagMask) == 0) return reinterpret_cast<std::byte*>(address);
    return w.cta->cluster->ctas[shared_rank(address)]->shared + shared_offset(address);
  }
  void begin_cluster(int k) {
    auto c = std::make_unique<Cluster>();
    c->launch = &launch_;
    c->id = {static_cast<uint32_t>(k), 0, 0};
    for (int r = 0; r < shape_.ctas; ++r) {
      auto cta = std::make_unique<Cta>();
      cta->cluster = c.get();
      cta->rank = static_cast<uint32_t>(r);
      cta->linear = static_cast<uint64_t>(k * shape_.ctas + r);
      cta->id = {static_cast<uint32_t>(cta->linear), 0, 0};
      cta->shared_end = kSharedBase + shape_.shared_bytes;
      memories_.push_back(std::make_unique<std::vector<std::byte>>(cta->shared_end));
      cta->shared = memories_.back()->data();
      cta->warps = std::vector<Warp>(static_cast<size_t>(shape_.warps));
      for (int i = 0; i < shape_.warps; ++i) {
        Warp& w = cta->warps[static_cast<size_t>(i)];
        w.cta = cta.get();
        w.index = i;
        w.program = &program_;
        w.live = w.lanes = w.mask = kAllLanes;
        registers_.push_back(std::make_unique<std::vector<std::byte>>(65536, std::byte{0xff}));
        w.regs = registers_.back()->data();
        w.check = checker_.get();
      }
      c->ctas.push_back(std::move(cta));
    }
    checker_->begin_cluster(*c);
    clusters_.push_back(std::move(c));
  }

  Shape shape_;
  ptx::Module module_;
  std::vector<std::unique_ptr<ptx::Instruction>> texts_;
  Program program_;
  Launch launch_;
  std::unique_ptr<Checker> checker_;
  std::vector<std::unique_ptr<Cluster>> clusters_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> memories_, registers_;
  uint64_t value_ = 0, barrier_phase_ = 0;
};

inline Rig::Address shared(uint32_t offset, uint32_t stride = 4, uint32_t rank = 0) {
  return [=](int l) {
    return kSharedTag | rank << 24 | (kSharedBase + offset + static_cast<uint32_t>(l) * stride);
  };
}

// What a function that must fail says; "" where it does not.
template <class F>
std::string fault_of(F f) {
  try {
    f();
  } catch (const Fault& e) {
    return e.what();
  }
  return "";
}

#define EXPECT_FAULT(words, ...)                                                          \
  do {                                                                                    \
    const std::string what_was_said = ::ptxsim::testing::fault_of([&] { __VA_ARGS__; });  \
    EXPECT_NE(what_was_said.find(words), std::string::npos) << "said: " << what_was_said; \
  } while (0)
#define EXPECT_CLEAN(...) EXPECT_EQ(::ptxsim::testing::fault_of([&] { __VA_ARGS__; }), "")

}  // namespace ptxsim::testing
