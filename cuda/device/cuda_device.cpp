#include "cuda/device/cuda_device.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "cuda/common/check.h"
#include "cuda/common/stream.h"
#include "cuda/device/staging.h"
#include "device/ledger.h"

namespace contender {

struct Event {
  cudaEvent_t handle = nullptr;
};
struct Graph {
  cudaGraphExec_t handle = nullptr;
};

namespace cuda {

std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text;
  for (const char byte : uuid.bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

namespace {

constexpr int64_t kAlignment = 256;

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&value, which, index));
  return value;
}

// What one of `sharers` ranks may take of the device in use. The driver's context, the kernels and the
// library of collectives live there too, at most half a GiB a rank; another program may have taken more.
int64_t usable_bytes(int sharers) {
  constexpr int64_t kOthers = 512 << 20;
  size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const int64_t share = static_cast<int64_t>(total) / sharers;
  return std::min(static_cast<int64_t>(free), share - std::min(kOthers, share / 16));
}

// Nothing that takes the device down throws: after an error of a kernel every call fails, and the first one
// has said so.
class CudaDevice final : public Device {
 public:
  CudaDevice(int index, int sharers) : ledger_(select(index, sharers)) {
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    name_ = properties.name;
    id_ = uuid_text(properties.uuid);
    int least = 0;
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest_priority_));
    compute_ = new_stream(least);
  }

  ~CudaDevice() override {
    for (auto& [name, s] : streams_) cudaStreamDestroy(s.handle);
    cudaStreamSynchronize(compute_.handle);
    cudaStreamDestroy(compute_.handle);
    for (Event* e : free_events_) {
      cudaEventDestroy(e->handle);
      delete e;
    }
  }

  std::string name() const override { return name_; }
  std::string id() const override { return id_; }
  int64_t memory_bytes() const override { return ledger_.capacity(); }
  bool host_memory() const override { return false; }
  int64_t allocated_bytes() const override { return ledger_.allocated(); }
  int64_t peak_bytes() const override { return ledger_.peak(); }

  void* alloc(int64_t bytes, const char* what) override {
    return ledger_.alloc(bytes, kAlignment, what, [](int64_t size) -> void* {
      void* p = nullptr;
      const cudaError_t error = cudaMalloc(&p, static_cast<size_t>(size));
      if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();  // told in the ledger's words
        return nullptr;
      }
      if (error != cudaSuccess) fail_cuda(__FILE__, __LINE__, "cudaMalloc", error);
      return p;
    });
  }
  void free(void* p) override {
    if (!p) return;
    ledger_.remove(p);
    cudaFree(p);  // waits for the work that uses it
  }

  Stream* compute_stream() override { return &compute_; }
  // Exchanges go first where both could run: they are short, and others wait for them.
  Stream* stream(const char* name) override {
    const auto [at, is_new] = streams_.try_emplace(name);
    if (is_new) at->second = new_stream(greatest_priority_);
    return &at->second;
  }
  void* handle(Stream* s) override { return s->handle; }

  void copy(Stream* s, void* dst, const void* src, int64_t bytes) override {
    if (bytes <= 0) return;
    CUDA_CHECK(cudaMemcpyAsync(dst, src, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, s->handle));
  }
  void zero(Stream* s, void* dst, int64_t bytes) override {
    if (bytes > 0) CUDA_CHECK(cudaMemsetAsync(dst, 0, static_cast<size_t>(bytes), s->handle));
  }
  void upload(Stream* s, void* dst, const void* src, int64_t bytes) override {
    CHECK(!capturing_, "an upload into a graph");
    host_waits_ += uploads_.upload(s->handle, dst, src, bytes);
  }
  void download(Stream* s, void* dst, const void* src, int64_t bytes) override {
    if (bytes <= 0) return synchronize(s);
    CHECK(!capturing_, "a download into a graph");
    ++host_waits_;
    downloads_.download(s->handle, dst, src, bytes);
  }
  void synchronize(Stream* s) override {
    CHECK(!capturing_, "a wait of the host in a graph");
    ++host_waits_;
    CUDA_CHECK(cudaStreamSynchronize(s->handle));
  }
  int64_t host_waits() const override { return host_waits_; }

  void order(Stream* first, Stream* waiter) override {
    if (first == waiter) return;
    Event* e = record(first);
    wait(waiter, e);
    release(e);
  }
  Event* record(Stream* s) override {
    if (free_events_.empty()) free_events_.push_back(new Event{new_event()});
    Event* e = free_events_.back();
    CUDA_CHECK(cudaEventRecord(e->handle, s->handle));
    free_events_.pop_back();
    return e;
  }
  void wait(Stream* s, Event* e) override { CUDA_CHECK(cudaStreamWaitEvent(s->handle, e->handle)); }
  bool done(Event* e) override { return passed(e->handle); }
  // Who waits for it already goes on waiting for what was recorded.
  void release(Event* e) override { free_events_.push_back(e); }

  Graph* capture(Stream* s, const std::function<void()>& work) override {
    cudaGraph_t plan = nullptr;
    CHECK(!capturing_, "a graph within a graph");
    CUDA_CHECK(cudaStreamBeginCapture(s->handle, cudaStreamCaptureModeThreadLocal));
    capturing_ = true;
    try {
      work();
    } catch (...) {
      capturing_ = false;
      cudaStreamEndCapture(s->handle, &plan);
      cudaGraphDestroy(plan);
      throw;
    }
    capturing_ = false;
    CUDA_CHECK(cudaStreamEndCapture(s->handle, &plan));
    Graph graph;
    CUDA_CHECK(cudaGraphInstantiate(&graph.handle, plan, 0));
    CUDA_CHECK(cudaGraphDestroy(plan));
    return new Graph(graph);
  }
  void launch(Stream* s, Graph* g) override { CUDA_CHECK(cudaGraphLaunch(g->handle, s->handle)); }
  void release(Graph* g) override {
    if (!g) return;
    cudaGraphExecDestroy(g->handle);
    delete g;
  }

 private:
  // Makes the GPU the thread's own, then says how much of it there is.
  static int64_t select(int index, int sharers) {
    CUDA_CHECK(cudaSetDevice(index));
    return usable_bytes(sharers);
  }
  static Stream new_stream(int priority) {
    Stream s;
    CUDA_CHECK(cudaStreamCreateWithPriority(&s.handle, cudaStreamNonBlocking, priority));
    return s;
  }

  Ledger ledger_;
  std::string name_, id_;
  int greatest_priority_ = 0;
  Stream compute_;
  std::map<std::string, Stream> streams_;
  std::vector<Event*> free_events_;
  UploadStaging uploads_;
  DownloadStaging downloads_;
  int64_t host_waits_ = 0;
  bool capturing_ = false;
};

}  // namespace

std::unique_ptr<Device> make_device(int index, int sharers) {
  CHECK(index >= 0 && sharers >= 1, "GPU {} for {} ranks", index, sharers);
  return std::make_unique<CudaDevice>(index, sharers);
}

// An SM of Hopper does 4,096 BF16 multiplications and additions per clock (H100 white paper).
double matrix_gflops(int index, int sharers) {
  const double sms = attribute(cudaDevAttrMultiProcessorCount, index);
  const double khz = attribute(cudaDevAttrClockRate, index);
  return sms * 4096 * khz * 1e-6 / sharers;
}

}  // namespace cuda
}  // namespace contender
