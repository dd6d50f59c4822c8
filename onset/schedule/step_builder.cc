#include "onset/schedule/step_builder.h"

#include <algorithm>
#include <iterator>

namespace onset {
namespace {

StepShape sum(const StepShape& a, const StepShape& b) {
  return {.prefill_row_layers = a.prefill_row_layers + b.prefill_row_layers,
          .decode_row_layers = a.decode_row_layers + b.decode_row_layers,
          .prefill_slots = a.prefill_slots + b.prefill_slots,
          .decode_slots = a.decode_slots + b.decode_slots,
          .prefill_keys = a.prefill_keys + b.prefill_keys,
          .output_rows = a.output_rows + b.output_rows};
}

int64_t row_layers(const Span& span) {
  return int64_t{span.count} * (span.layer_end - span.layer_begin);
}

Span answer_span(const ScheduledRequest& request, int32_t layers) {
  return {.id = request.id,
          .first_token = request.computed,
          .count = 1,
          .layer_begin = 0,
          .layer_end = layers,
          .wants_logits = true,
          .answer = true};
}

// The largest n in 1..most for which fits(n), or 0: more never fits where less does not.
template <typename Fits>
int32_t largest_that_fits(int32_t most, const Fits& fits) {
  int32_t good = 0;
  int32_t too_many = most + 1;
  while (too_many - good > 1) {
    const int32_t middle = good + (too_many - good) / 2;
    (fits(middle) ? good : too_many) = middle;
  }
  return good;
}

}  // namespace

bool continues_answer(const ScheduledRequest& request) {
  return request.computed >= request.prompt_tokens && request.known - request.computed == 1 && request.layer == 0;
}

StepShape span_shape(const Span& span) {
  const int64_t layers = span.layer_end - span.layer_begin;
  const int64_t count = span.count;
  StepShape shape;
  (span.answer ? shape.decode_row_layers : shape.prefill_row_layers) = count * layers;
  // Row i sees itself and the first_token + i rows before it.
  (span.answer ? shape.decode_slots : shape.prefill_slots) = (count * span.first_token + count * (count + 1) / 2) * layers;
  if (!span.answer) shape.prefill_keys = int64_t{span.first_token} * layers;
  shape.output_rows = span.wants_logits ? 1 : 0;
  return shape;
}

StepShape step_shape(const Step& step) {
  StepShape shape;
  for (const Span& span : step.spans) shape = sum(shape, span_shape(span));
  return shape;
}

StepBuilder::StepBuilder(const ScheduleContext& context, const ScheduleOptions& options, int32_t budget_rows)
    : context_(context), options_(options), budget_row_layers_(int64_t{budget_rows} * context.layers), free_pages_(context.free_pages) {
  watermark_ = static_cast<int64_t>(options.watermark * static_cast<double>(context.pages));
  for (const ScheduledRequest& request : context.requests) {
    if (request.known > request.computed) (request.admitted ? residents_ : waiting_).push_back(&request);
    running_ += request.admitted;
  }
  const auto before = [](const ScheduledRequest* a, const ScheduledRequest* b) {
    return a->priority != b->priority ? a->priority > b->priority : a->id < b->id;
  };
  std::sort(residents_.begin(), residents_.end(), before);
  std::sort(waiting_.begin(), waiting_.end(), before);
}

std::vector<const ScheduledRequest*> StepBuilder::in_order() const {
  std::vector<const ScheduledRequest*> all;
  std::merge(residents_.begin(), residents_.end(), waiting_.begin(), waiting_.end(), std::back_inserter(all),
             [](const ScheduledRequest* a, const ScheduledRequest* b) { return a->priority > b->priority; });
  return all;
}

bool StepBuilder::fits(const Span& span) const {
  if (row_layers(span) > budget_row_layers_ - used_row_layers_) return false;
  if (context_.cost == nullptr || context_.most_seconds <= 0) return true;
  return context_.cost->seconds(sum(shape_, span_shape(span))) <= context_.most_seconds;
}

void StepBuilder::add(const Span& span) {
  step_.spans.push_back(span);
  shape_ = sum(shape_, span_shape(span));
  used_row_layers_ += row_layers(span);
}

bool StepBuilder::grow(const ScheduledRequest& request, int32_t tokens) {
  const int64_t more = std::max<int64_t>(0, pages_of(request, tokens) - request.pages);
  if (more > free_pages_) return false;
  free_pages_ -= more;
  return true;
}

bool StepBuilder::was_preempted(const ScheduledRequest& request) const {
  return std::any_of(step_.preempt.begin(), step_.preempt.end(), [&](const Preemption& gone) { return gone.id == request.id; });
}

void StepBuilder::preempt(const ScheduledRequest& request) {
  const bool swap = options_.preemption == PreemptionKind::swap && request.can_swap && request.layer == 0;
  step_.preempt.push_back({request.id, swap ? PreemptionKind::swap : PreemptionKind::recompute});
  free_pages_ += request.pages;
  --running_;
}

bool StepBuilder::run_answer(size_t index) {
  const ScheduledRequest& request = *residents_[index];
  if (was_preempted(request)) return false;
  size_t behind = residents_.size();
  while (!grow(request, request.known)) {
    const ScheduledRequest* victim = nullptr;
    while (victim == nullptr && behind > index + 1) {
      const ScheduledRequest* candidate = residents_[--behind];
      if (!candidate->fixed && !was_preempted(*candidate)) victim = candidate;
    }
    preempt(victim != nullptr ? *victim : request);
    if (victim == nullptr) return false;
  }
  add(answer_span(request, context_.layers));
  return true;
}

void StepBuilder::run_answers() {
  for (size_t i = 0; i < residents_.size(); ++i) {
    if (continues_answer(*residents_[i])) run_answer(i);
  }
}

// Pages that the request adds to those that are held anyway, when it has so many tokens.
int64_t StepBuilder::pages_of(const ScheduledRequest& request, int64_t tokens) const {
  return std::max<int64_t>(0, context_.pages_of(tokens) - request.shared_pages);
}

int64_t StepBuilder::pages_wanted(const ScheduledRequest& request, bool whole) const {
  // The last token is given out, but never read.
  const int64_t tokens = whole || request.fixed ? int64_t{request.prompt_tokens} + std::max(0, request.most_new_tokens - 1) : request.known;
  return std::max(request.pages, pages_of(request, std::max<int64_t>(tokens, request.known)));
}

bool StepBuilder::could_admit(const ScheduledRequest& request, bool whole, int64_t watermark) const {
  if (running_ >= context_.most_running) return false;
  const int64_t more = pages_wanted(request, whole) - request.pages;
  return free_pages_ - more >= (running_ == 0 ? 0 : watermark);
}

bool StepBuilder::admit(const ScheduledRequest& request, bool whole, int64_t watermark) {
  if (!could_admit(request, whole, watermark)) return false;
  const int64_t pages = pages_wanted(request, whole);
  step_.admit.push_back({request.id, pages});
  free_pages_ -= pages - request.pages;
  ++running_;
  return true;
}

void StepBuilder::make_room_for(const ScheduledRequest& request, bool whole, int64_t watermark, int32_t most_running) {
  const int64_t more = pages_wanted(request, whole) - request.pages;
  int64_t pages = free_pages_;
  int32_t running = running_;
  const auto has_room = [&] {
    return running < std::min(context_.most_running, most_running) && pages - more >= (running == 0 ? 0 : watermark);
  };
  std::vector<const ScheduledRequest*> victims;
  for (auto last = residents_.rbegin(); last != residents_.rend() && !has_room(); ++last) {
    if ((*last)->priority >= request.priority) return;
    if ((*last)->fixed) continue;
    victims.push_back(*last);
    pages += (*last)->pages;
    --running;
  }
  if (!has_room()) return;
  for (const ScheduledRequest* victim : victims) preempt(*victim);
}

// Blocks of rows that run together: as many as there is room for, or one of them through fewer layers. How they are cut changes no result.
Span StepBuilder::block_span(const ScheduledRequest& request, int32_t most_rows) const {
  const auto block_end = [&](int32_t begin) {
    const int64_t next = (int64_t{begin} / request.row_block + 1) * request.row_block;
    return static_cast<int32_t>(std::min<int64_t>(next, request.prompt_tokens));
  };
  const auto span_of = [&](int32_t count, int32_t layers) {
    const int32_t layer_end = request.layer + layers;
    return Span{.id = request.id,
                .first_token = request.computed,
                .count = count,
                .layer_begin = request.layer,
                .layer_end = layer_end,
                .wants_logits = request.computed + count == request.known && layer_end == context_.layers};
  };
  const int32_t left = context_.layers - request.layer;
  int32_t count = request.layer > 0 ? request.piece : block_end(request.computed) - request.computed;
  while (request.layer == 0 && request.computed + count < request.prompt_tokens) {
    const int32_t more = block_end(request.computed + count) - request.computed;
    if (more > most_rows || !fits(span_of(more, left))) break;
    count = more;
  }
  const int32_t layers = largest_that_fits(left, [&](int32_t layers) { return fits(span_of(count, layers)); });
  // A single layer may be more than any budget: answers that always run must not keep it out for ever.
  const bool first = std::all_of(step_.spans.begin(), step_.spans.end(), [](const Span& span) { return span.answer; });
  return span_of(count, layers == 0 && first ? 1 : layers);
}

Span StepBuilder::prompt_span(const ScheduledRequest& request, int32_t most_rows, int32_t stage_layers) const {
  if (request.row_block > 0 && request.computed < request.prompt_tokens) return block_span(request, most_rows);
  const int32_t left = request.known - request.computed;
  const int32_t stage = stage_layers <= 0 ? context_.layers : std::min(stage_layers, context_.layers);
  const auto span_of = [&](int32_t count, int32_t layers) {
    const int32_t layer_end = request.layer + layers;
    return Span{.id = request.id,
                .first_token = request.computed,
                .count = count,
                .layer_begin = request.layer,
                .layer_end = layer_end,
                .wants_logits = count == left && layer_end == context_.layers};
  };
  // A piece that is midway keeps its rows and may run through fewer layers; a new one may have fewer rows.
  const bool midway = request.layer > 0;
  const int32_t most_layers = std::min(stage, context_.layers - request.layer);
  if (midway) {
    const int32_t layers = largest_that_fits(most_layers, [&](int32_t layers) { return fits(span_of(request.piece, layers)); });
    return span_of(request.piece, layers == 0 && empty() ? 1 : layers);
  }
  const int32_t rows = largest_that_fits(std::min(left, most_rows), [&](int32_t rows) { return fits(span_of(rows, most_layers)); });
  if (rows > 0 || !empty()) return span_of(rows, most_layers);
  return span_of(1, stage < context_.layers ? 1 : most_layers);
}

bool StepBuilder::room_for_prompt(const ScheduledRequest& request, int32_t most_rows, int32_t stage_layers) const {
  const Span span = prompt_span(request, most_rows, stage_layers);
  return span.count > 0 && span.layer_end > span.layer_begin;
}

int32_t StepBuilder::run_prompt(const ScheduledRequest& request, int32_t most_rows, int32_t stage_layers) {
  const Span span = prompt_span(request, most_rows, stage_layers);
  if (span.count <= 0 || span.layer_end <= span.layer_begin) return 0;
  add(span);
  return span.count;
}

bool StepBuilder::run_readmitted_answer(const ScheduledRequest& request) {
  const Span span = answer_span(request, context_.layers);
  if (!empty() && !fits(span)) return false;
  add(span);
  return true;
}

}  // namespace onset
