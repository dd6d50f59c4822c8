// How well, and how fast, a model answers long prompts in one way or another: what attend and select policies cost and gain.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "onset/engine/long_tasks.h"

namespace onset {

// A policy of each seat that a request may name; null: none.
struct LongWay {
  std::string name;
  std::shared_ptr<const AttendSpec> attend = {};
  std::shared_ptr<const SelectSpec> select = {};
};

// Of one prompt read in one way.
struct LongScore {
  std::string answer;  // as the model goes on, up to its end or item.most_new_tokens
  double exact = 0;    // the share of the references that the answer contains, capitals or not
  bool first = false;  // no wrong answer is likelier than the likeliest right one
  double logprob = 0;  // of a right answer's token, nats: the mean over its tokens; of several answers, of the likeliest by this mean
  double first_token_seconds = 0;
  int32_t decoded_tokens = 0;  // after the first ...
  double decode_seconds = 0;   // ... and how long they took
  int64_t bytes = 0;           // of keys, values and stored states, at most
  double skipped = 0;          // the share of attention's pairs that was left out
  double rows = 1;             // the share of the prompt's rows that ran before the first token, over all layers
};

// Answers greedily; then the answers are given, one after the other, each token behind those before it as if the model had said it: a
// policy that looks at the last token sees the prompt's. `space`: a name for this prompt and way that no other has (Request::space): what
// was read for one of them is found by its wrong answers and nobody else. The engine has nothing else to do. Errors: those of
// Engine::submit and what made a request fail.
Result<LongScore> score_item(Engine& engine, const LongItem& item, const LongWay& way, const std::string& space);

// Of some scores.
struct LongSummary {
  int64_t items = 0;
  double exact = 0, first = 0, logprob = 0;  // means
  double first_token_seconds = 0, decode_tokens_per_second = 0;
  int64_t bytes = 0;  // the most
  double skipped = 0, rows = 0;
};
LongSummary summary_of(std::span<const LongScore> scores);

// The 95 % interval of a share of n trials (Wilson's).
struct Interval {
  double low = 0, high = 1;
};
Interval wilson_interval(double share, int64_t trials);
// What chance gives is no measure of a model: whether a share of so many trials is above it by three standard errors.
bool above_chance(double share, double chance, int64_t trials);
// The probability that of so many pairs in which only one of two ways is right the numbers are this far apart or further when neither is
// better (McNemar's exact test, two-sided).
double mcnemar(int64_t only_first, int64_t only_second);

}  // namespace onset
