// Runs a layer's operations on the rows of a step. One processor here; two processors or shards are other executors.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "onset/base/thread_pool.h"
#include "onset/model/batch.h"
#include "onset/model/model.h"

namespace onset {

// One sequence's rows among the running rows of a layer.
struct LayerRows {
  const BatchSequence* sequence = nullptr;
  AttendPolicy* attend = nullptr;
  int32_t row_begin = 0, row_end = 0;  // among the running rows
};

// A layer's work: the running rows, packed one after another.
struct LayerCall {
  const Model* model = nullptr;
  int32_t layer = 0;
  int32_t rows = 0;
  const int32_t* positions = nullptr;  // [rows]
  const int32_t* slots = nullptr;      // [rows]: where their keys and values go
  std::span<const LayerRows> sequences;
  float* residual = nullptr;  // [rows, hidden]: read and added to
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual Status run_layer(const Layer& layer, const LayerCall& call) = 0;
  // The keys (with rotary embedding) and values that the layer would store for these rows, and what their slots hold now. Writes nothing.
  virtual void compare_layer(const Layer& layer, const LayerCall& call, KeyValueRows& fresh, KeyValueRows& stored) = 0;
  // Adds a shift to what lies in a sequence's slots first..last-1 of a layer, which are their positions; keys turn with their positions.
  virtual void shift_slots(const Model& model, int32_t layer, SequenceCache& cache, KeyRange slots, const KeyValueShift& shift) = 0;
  // The output norm and head on chosen rows: hidden[i] is the hidden state of output i.
  virtual void run_outputs(const Model& model, std::span<const BatchOutput> outputs, std::span<const float* const> hidden,
                           OutputSink& sink) = 0;
};

// Called with the partial sums of a sharded linear layer ([rows, width], packed); makes them the sums over all shards.
using ReduceHook = std::function<Status(float* values, int64_t rows, int64_t width)>;

// Called after each operation with its name, the layer, and when it began and ended (seconds of a steady clock).
using TimeHook = std::function<void(const std::string& name, int32_t layer, double begin, double end)>;

// Called with rows of a linear layer's input before they are multiplied: rows row..row+count-1 of the step, `data` + i * stride each.
// From worker threads, for different rows at once.
using InputHook = std::function<void(int32_t weight, int32_t row, int32_t count, const float* data, int64_t stride)>;

class CpuExecutor : public Executor {
 public:
  explicit CpuExecutor(ThreadPool& pool);
  ~CpuExecutor() override;

  Status run_layer(const Layer& layer, const LayerCall& call) override;
  void compare_layer(const Layer& layer, const LayerCall& call, KeyValueRows& fresh, KeyValueRows& stored) override;
  void shift_slots(const Model& model, int32_t layer, SequenceCache& cache, KeyRange slots, const KeyValueShift& shift) override;
  void run_outputs(const Model& model, std::span<const BatchOutput> outputs, std::span<const float* const> hidden,
                   OutputSink& sink) override;

  void set_reduce_hook(ReduceHook hook) { reduce_ = std::move(hook); }
  // With a time hook every operation is a parallel region of its own, so that its time can be told.
  void set_time_hook(TimeHook hook) { time_ = std::move(hook); }
  // What inputs look like, for calibration. Costs a look at every input while set.
  void set_input_hook(InputHook hook) { input_ = std::move(hook); }
  ThreadPool& pool() { return *pool_; }

 private:
  struct Workspace;
  void use(const Model& model);
  friend class LayerRun;
  friend class OutputRun;
  ThreadPool* pool_;
  std::unique_ptr<Workspace> workspace_;
  ReduceHook reduce_;
  TimeHook time_;
  InputHook input_;
};

}  // namespace onset
