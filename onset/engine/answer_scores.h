// How likely a model finds given answers to a prompt with contexts, whichever way these are read.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "onset/engine/chat.h"

namespace onset {

// A way of reading contexts; none: one after the other, as one text. Not for models whose layers have windows, even so.
using ReadingWay = std::optional<ContextReuse>;

// What follows a prompt, and what the model makes of it.
struct FollowingTokens {
  std::vector<int32_t> tokens;  // may be empty
  std::vector<float> logits;    // [1 + tokens, vocabulary]: after the prompt, and after each of them; filled by read_logits()
};
// Reads the prompt once for each entry, all of them together. Errors: those of Engine::submit and what made a request fail.
Status read_logits(Engine& engine, const PromptParts& parts, const ReadingWay& way, std::span<FollowingTokens> following);

// A prompt whose answers are known.
struct AnsweredPrompt {
  PromptParts parts;
  std::vector<std::vector<int32_t>> answers;  // token ids, which follow the prompt; none of them empty
  std::optional<size_t> label = {};           // the answers are labels, and this one is right; none: each of them is right
};

struct AnswerScore {
  std::vector<double> answers;  // log-probability of each, nats
  double logprob = 0;           // mean over the tokens of the right one (the likeliest of them, by this mean)
  bool right = false;           // no other label is likelier than the right one
};
// Errors: invalid_argument for a prompt without answers, an empty one, or a label that is none of them; those of read_logits().
Result<AnswerScore> score_answers(Engine& engine, const AnsweredPrompt& prompt, const ReadingWay& way);

}  // namespace onset
