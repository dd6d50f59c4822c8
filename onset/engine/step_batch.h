// The batch of a step: its spans' rows one after another, and what becomes of their outputs.
#pragma once

#include <span>
#include <vector>

#include "onset/engine/running.h"
#include "onset/model/batch.h"
#include "onset/schedule/policy.h"

namespace onset {

// A span and its request.
struct Work {
  Span span;
  RunningRequest* running = nullptr;
};

// Fills a Batch and receives its outputs: tokens are drawn where the logits are, in the worker that has them, so that logits
// are never copied. Kept from step to step for its memory.
class StepBatch : public OutputSink {
 public:
  // `vocabulary`: the tokens that can be drawn (a model may have more rows of logits than its tokenizer has tokens).
  StepBatch(int32_t layers, int64_t hidden, int32_t vocabulary) : layers_(layers), hidden_(hidden), vocabulary_(vocabulary) {}

  // The batch of these spans. Valid until the next call.
  const Batch& build(std::span<const Work> work);
  void output(int32_t index, std::span<const float> values) override;

 private:
  struct Receiver {
    RunningRequest* running = nullptr;
    int32_t position = 0;
    OutputKind kind = OutputKind::logits;
    bool draws = false;    // a token follows this row
    bool listens = false;  // the request's on_logits or on_hidden wants it
  };
  void add(const Work& work);
  void want(const Work& work, int32_t row, int32_t position);

  int32_t layers_;
  int64_t hidden_;
  int32_t vocabulary_;
  Batch batch_;
  std::vector<Receiver> receivers_;
};

}  // namespace onset
