#include "onset/engine/step_batch.h"

#include <algorithm>

namespace onset {

const Batch& StepBatch::build(std::span<const Work> work) {
  batch_.tokens.clear();
  batch_.vectors.clear();
  batch_.positions.clear();
  batch_.sequences.clear();
  batch_.outputs.clear();
  receivers_.clear();
  for (const Work& part : work) add(part);
  return batch_;
}

void StepBatch::add(const Work& work) {
  const Span& span = work.span;
  RunningRequest& running = *work.running;
  const Conversation& conversation = *running.conversation;
  SelectPolicy* select = running.request.select.get();
  const std::span<const int32_t> earlier = select != nullptr ? select->earlier() : std::span<const int32_t>();
  AttendPolicy* attend = running.request.attend.get();
  if (attend == nullptr && select != nullptr) attend = select->attend();
  const int32_t sequence_begin = batch_.rows(), row_begin = sequence_begin + static_cast<int32_t>(earlier.size());
  BatchSequence sequence{.row_begin = sequence_begin,
                         .row_end = row_begin + span.count,
                         .cache = &running.conversation->cache,
                         .attend = attend,
                         .select = select,
                         .layer_begin = span.layer_begin,
                         .layer_end = span.layer_end};
  if (span.layer_begin > 0) sequence.hidden_in = running.hidden.data();
  if (span.layer_end < layers_) {
    running.next_hidden.resize(static_cast<size_t>(span.count) * hidden_);
    sequence.hidden_out = running.next_hidden.data();
  }
  batch_.sequences.push_back(sequence);

  for (const int32_t position : earlier) {
    // They come in with what was stored for them, never with their input.
    batch_.tokens.push_back(conversation.tokens[position - conversation.first_position]);
    batch_.positions.push_back(position);
  }
  for (int32_t i = 0; i < span.count; ++i) {
    const int32_t position = span.first_token + i;
    const int32_t token = conversation.tokens[position];
    batch_.tokens.push_back(token);
    batch_.positions.push_back(conversation.first_position + position);
    if (token < 0) {
      batch_.vectors.resize(batch_.tokens.size(), nullptr);
      batch_.vectors.back() = running.request.vectors[position - running.first_token].data();
    }
    if (span.layer_end == layers_) want(work, row_begin + i, position);
  }
  if (!batch_.vectors.empty()) batch_.vectors.resize(batch_.tokens.size(), nullptr);
}

void StepBatch::want(const Work& work, int32_t row, int32_t position) {
  RunningRequest& running = *work.running;
  const bool last = position + 1 == work.span.first_token + work.span.count;
  const bool draws = last && work.span.wants_logits && running.new_tokens < running.most_new_tokens;
  // The conversation's own last token may be read again before the prompt; nobody asked about it.
  const bool prompt = position >= running.first_token && position < running.prompt_end;
  const bool listens_logits = prompt && running.request.on_logits;
  const bool listens_hidden = prompt && running.request.on_hidden;
  const auto add_output = [&](OutputKind kind, bool draw, bool listen) {
    batch_.outputs.push_back({.row = row, .kind = kind});
    receivers_.push_back({.running = &running, .position = position, .kind = kind, .draws = draw, .listens = listen});
  };
  if (draws || listens_logits) add_output(OutputKind::logits, draws, listens_logits);
  if (listens_hidden) add_output(OutputKind::hidden, false, true);
}

void StepBatch::output(int32_t index, std::span<const float> values) {
  const Receiver& receiver = receivers_[index];
  RunningRequest& running = *receiver.running;
  if (receiver.listens) {
    (receiver.kind == OutputKind::logits ? running.request.on_logits : running.request.on_hidden)(receiver.position, values);
  }
  if (receiver.draws) running.sampled = running.sampler.sample(values.first(std::min<size_t>(vocabulary_, values.size())));
}

}  // namespace onset
