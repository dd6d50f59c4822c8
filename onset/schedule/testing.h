// A world that runs what a policy says, as the engine does, and checks every step.
#pragma once

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>

#include "onset/schedule/policy.h"

namespace onset::testing {

struct WorldOptions {
  int32_t layers = 4;
  int64_t pages = 100;
  int32_t most_running = 8;
  int32_t longest = 1000;
  int32_t page_tokens = 16;
  int64_t swap_pages = 0;  // room in the file
};

// Requests end after most_new_tokens tokens. Throws std::runtime_error where a step breaks a rule that all policies keep: so both
// GoogleTest and RapidCheck can use it.
class World {
 public:
  explicit World(const WorldOptions& options) : options_(options) {
    context_ = {.layers = options.layers,
                .longest = options.longest,
                .pages = options.pages,
                .free_pages = options.pages,
                .pages_of = [size = options.page_tokens](int64_t tokens) { return (tokens + size - 1) / size; },
                .most_running = options.most_running};
  }

  ScheduleContext& context() { return context_; }
  const std::vector<ScheduledRequest>& requests() const { return context_.requests; }
  bool idle() const { return context_.requests.empty(); }
  int64_t waiting() const {
    return std::count_if(requests().begin(), requests().end(), [](const ScheduledRequest& request) { return !request.admitted; });
  }
  int64_t ended() const { return ended_; }
  const std::map<RequestId, int32_t>& answers() const { return answers_; }  // tokens that each request was given

  RequestId arrive(ScheduledRequest request) {
    request.id = ++last_id_;
    request.known = request.prompt_tokens;
    context_.requests.push_back(request);
    return request.id;
  }

  Step step(SchedulePolicy& policy) {
    for (ScheduledRequest& request : context_.requests) {
      request.can_swap = swapped_pages_ + context_.pages_of(request.computed) <= options_.swap_pages;
    }
    const Step step = policy.next(context_);
    check(!step.spans.empty() || !step.preempt.empty(), "nothing runs though work is left and every request fits alone");
    for (const Preemption& gone : step.preempt) preempt(gone);
    for (const Admission& admission : step.admit) admit(admission);
    std::set<RequestId> seen;
    for (const Span& span : step.spans) {
      check(seen.insert(span.id).second, "a request has two spans");
      run(span, policy.most_rows(context_.longest));
    }
    check(context_.free_pages >= 0, "more pages than the pool has");
    count_pages();
    retire();
    return step;
  }

 private:
  static void check(bool holds, const std::string& rule) {
    if (!holds) throw std::runtime_error(rule);
  }
  ScheduledRequest& find(RequestId id) {
    for (ScheduledRequest& request : context_.requests) {
      if (request.id == id) return request;
    }
    throw std::runtime_error("a request that does not exist");
  }
  void set_pages(ScheduledRequest& request, int64_t pages) {
    context_.free_pages -= pages - request.pages;
    request.pages = pages;
  }

  void preempt(const Preemption& gone) {
    ScheduledRequest& request = find(gone.id);
    check(request.admitted && !request.fixed, "who has no pages, or keeps them, gives up pages");
    request.admitted = false;
    set_pages(request, 0);
    if (gone.kind == PreemptionKind::swap) {
      check(request.can_swap && request.layer == 0, "pages go to a file that has no room");
      request.swapped = true;
      swapped_pages_ += context_.pages_of(request.computed);
    } else {
      request.computed = request.layer = request.piece = 0;
    }
  }

  void admit(const Admission& admission) {
    ScheduledRequest& request = find(admission.id);
    check(!request.admitted, "who runs is admitted");
    for (const ScheduledRequest& other : context_.requests) {
      const bool earlier = other.priority > request.priority || (other.priority == request.priority && other.id < request.id);
      check(other.admitted || !earlier, "a request overtakes another");
    }
    request.admitted = true;
    if (request.swapped) swapped_pages_ -= context_.pages_of(request.computed);
    request.swapped = false;
    check(admission.pages >= context_.pages_of(request.known), "too few pages for what is known");
    set_pages(request, admission.pages);
    const auto running = std::count_if(requests().begin(), requests().end(), [](const ScheduledRequest& other) { return other.admitted; });
    check(running <= context_.most_running, "more run than there are places");
  }

  void run(const Span& span, int32_t most_rows) {
    ScheduledRequest& request = find(span.id);
    check(request.admitted, "a request without a place runs");
    check(span.count >= 1 && span.count <= most_rows, "too many rows of one request");
    check(span.first_token == request.computed && span.first_token + span.count <= request.known, "not every token once and in order");
    check(span.layer_begin == request.layer && span.layer_end > span.layer_begin && span.layer_end <= context_.layers,
          "layers do not follow each other");
    check(request.layer == 0 || span.count == request.piece, "a piece changes midway");
    const bool last = span.first_token + span.count == request.known && span.layer_end == context_.layers;
    check(span.wants_logits == last, "logits of another row than the last");
    check(span.answer == (request.computed >= request.prompt_tokens && request.known - request.computed == 1 && request.layer == 0),
          "a prompt's row is taken for an answer's, or the other way round");
    set_pages(request, std::max(request.pages, context_.pages_of(span.first_token + span.count)));
    if (span.layer_end < context_.layers) {
      request.layer = span.layer_end;
      request.piece = span.count;
      return;
    }
    request.layer = request.piece = 0;
    request.computed += span.count;
    if (last) {
      ++request.known;
      ++answers_[request.id];
    }
  }

  void count_pages() const {
    int64_t held = 0;
    for (const ScheduledRequest& request : context_.requests) held += request.pages;
    check(held + context_.free_pages == options_.pages, "pages were lost");
  }

  void retire() {
    std::erase_if(context_.requests, [&](ScheduledRequest& request) {
      if (request.known - request.prompt_tokens < request.most_new_tokens) return false;
      set_pages(request, 0);
      ++ended_;
      return true;
    });
  }

  WorldOptions options_;
  ScheduleContext context_;
  RequestId last_id_ = 0;
  int64_t ended_ = 0, swapped_pages_ = 0;
  std::map<RequestId, int32_t> answers_;
};

}  // namespace onset::testing
