#include "onset/schedule/policy.h"

#include <algorithm>

namespace onset {
namespace {

StepShape sum(const StepShape& a, const StepShape& b) {
  return {a.prefill_row_layers + b.prefill_row_layers, a.decode_row_layers + b.decode_row_layers,
          a.attended_slots + b.attended_slots, a.output_rows + b.output_rows};
}

// Whether the request's next row is the one that continues its answer.
bool continues_answer(const ScheduledRequest& request) {
  return request.computed >= request.prompt_tokens && request.known - request.computed == 1 && request.layer == 0;
}

// A step under construction, and what may still go into it.
class StepBuilder {
 public:
  explicit StepBuilder(const ScheduleContext& context) : context_(context) {}

  bool empty() const { return step_.spans.empty(); }
  int64_t budget_left() const { return context_.budget_row_layers - used_row_layers_; }

  bool fits(const Span& span) const {
    if (int64_t{span.count} * (span.layer_end - span.layer_begin) > budget_left()) return false;
    if (context_.cost == nullptr || context_.most_seconds <= 0) return true;
    return context_.cost->seconds(sum(shape_, span_shape(span, false))) <= context_.most_seconds;
  }

  void add(const Span& span, bool answer) {
    step_.spans.push_back(span);
    shape_ = sum(shape_, span_shape(span, answer));
    used_row_layers_ += int64_t{span.count} * (span.layer_end - span.layer_begin);
  }

  void admit(RequestId id) { step_.admit.push_back(id); }
  Step take() { return std::move(step_); }

 private:
  const ScheduleContext& context_;
  Step step_;
  StepShape shape_;
  int64_t used_row_layers_ = 0;
};

// The largest n in 1..most for which span_of(n) fits, or 0: more never fits where less does not.
template <typename SpanOf>
int32_t largest_that_fits(const StepBuilder& builder, int32_t most, const SpanOf& span_of) {
  int32_t fits = 0;
  int32_t too_many = most + 1;
  while (too_many - fits > 1) {
    const int32_t middle = fits + (too_many - fits) / 2;
    (builder.fits(span_of(middle)) ? fits : too_many) = middle;
  }
  return fits;
}

}  // namespace

StepShape span_shape(const Span& span, bool continues_answer) {
  const int64_t layers = span.layer_end - span.layer_begin;
  const int64_t count = span.count;
  StepShape shape;
  (continues_answer ? shape.decode_row_layers : shape.prefill_row_layers) = count * layers;
  // Row i sees itself and the first_token + i rows before it.
  shape.attended_slots = (count * span.first_token + count * (count + 1) / 2) * layers;
  shape.output_rows = span.wants_logits ? 1 : 0;
  return shape;
}

Step FirstComeChunked::next(const ScheduleContext& context) {
  StepBuilder builder(context);

  // Answers first. Where not all rows fit, go on behind the one that was last.
  std::vector<const ScheduledRequest*> answers;
  int32_t running = 0;
  for (const ScheduledRequest& request : context.requests) {
    running += request.admitted;
    if (request.admitted && continues_answer(request)) answers.push_back(&request);
  }
  const int64_t room = std::max<int64_t>(1, context.budget_row_layers / std::max(1, context.layers));
  if (static_cast<int64_t>(answers.size()) > room) {
    const auto after_last = std::find_if(answers.begin(), answers.end(),
                                         [&](const ScheduledRequest* request) { return request->id > last_answer_; });
    std::rotate(answers.begin(), after_last, answers.end());
    answers.resize(room);
    last_answer_ = answers.back()->id;
  }
  for (const ScheduledRequest* request : answers) {
    builder.add({.id = request->id, .first_token = request->computed, .count = 1, .layer_begin = 0,
                 .layer_end = context.layers, .wants_logits = true},
                true);
  }

  int64_t free_pages = context.free_pages;
  const int32_t stage = stage_layers_ <= 0 ? context.layers : std::min(stage_layers_, context.layers);
  for (const ScheduledRequest& request : context.requests) {
    const int32_t left = request.known - request.computed;
    if (left <= 0 || (request.admitted && continues_answer(request))) continue;
    // Nobody overtakes a request that waits for pages or a place.
    if (!request.admitted && (running >= context.most_running || request.pages_needed > free_pages)) break;

    const bool midway = request.layer > 0;
    const auto span_of = [&](int32_t count, int32_t layers) {
      const int32_t layer_end = request.layer + layers;
      return Span{.id = request.id, .first_token = request.computed, .count = count, .layer_begin = request.layer,
                  .layer_end = layer_end, .wants_logits = count == left && layer_end == context.layers};
    };
    // A piece that is midway keeps its rows and may run through fewer layers; a new one may have fewer rows.
    const int32_t most_layers = std::min(stage, context.layers - request.layer);
    const int32_t most_rows = std::min({left, chunk_tokens_, context.most_rows});
    Span span;
    if (midway) {
      span = span_of(request.piece, largest_that_fits(builder, most_layers, [&](int32_t layers) {
                       return span_of(request.piece, layers);
                     }));
    } else {
      span = span_of(largest_that_fits(builder, most_rows, [&](int32_t rows) { return span_of(rows, most_layers); }),
                     most_layers);
    }
    const bool nothing = midway ? span.layer_end == span.layer_begin : span.count == 0;
    if (nothing) {
      if (!builder.empty()) break;  // the others come no sooner than this one
      const bool staged = stage < context.layers || midway;
      span = midway ? span_of(request.piece, 1) : span_of(1, staged ? 1 : most_layers);
    }
    if (!request.admitted) {
      builder.admit(request.id);
      free_pages -= request.pages_needed;
      ++running;
    }
    builder.add(span, false);
  }
  return builder.take();
}

}  // namespace onset
