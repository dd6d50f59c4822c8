// Tasks for long prompts whose answers are known, made by generators: the same seed makes the same prompts. They are in the way of RULER
// (arXiv:2404.06654), the passkey task and key-value retrieval (arXiv:2307.03172), with words of our own.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"
#include "onset/engine/engine.h"
#include "onset/engine/haystack.h"
#include "onset/text/chat_template.h"

namespace onset {

enum class LongTask : uint8_t {
  needle,     // a sentence with a number of 7 digits in a text
  passkey,    // a sentence with a key of 5 digits among sentences that say nothing
  variables,  // one value handed on from variable to variable, 4 times, among such sentences: which variables have it?
  pairs,      // keys and values in JSON: the value of one of them
  two_facts,  // two such sentences as in `needle`; the answer begins with the first number and goes on to the second
};
const char* long_task_name(LongTask task);  // "needle", ..., "two-facts"
std::optional<LongTask> long_task(std::string_view name);
// Whether where the answer stands is one place of the prompt, which the task is asked at several depths for.
bool has_depth(LongTask task);

// A prompt in words, as long as it is made.
class DraftPrompt {
 public:
  // `others`: so many wrong answers. depth: 0 to 1.
  DraftPrompt(LongTask task, const Haystack& haystack, double depth, uint64_t seed, int32_t others);

  // What the user says; it has `count` sentences of the haystack, or other pairs of keys and values.
  std::string message(int64_t count) const;
  const std::string& reply() const { return reply_; }    // how the answer begins, which is said for the model
  const std::string& given() const { return given_; }    // what follows that and is not scored by its likelihood; may be empty
  const std::string& answer() const { return answer_; }  // what follows that
  const std::vector<std::string>& others() const { return others_; }
  const std::vector<std::string>& references() const { return references_; }  // what an answer has to contain

 private:
  void make_needle(std::mt19937_64& random, int32_t others);
  void make_passkey(std::mt19937_64& random, int32_t others);
  void make_variables(std::mt19937_64& random, int32_t others);
  void make_pairs(std::mt19937_64& random, int32_t others);
  void make_two_facts(std::mt19937_64& random, int32_t others);
  class Pairs;
  std::string pairs_text(int64_t count) const;

  const Haystack* haystack_;
  double depth_;
  uint64_t seed_;  // of the other pairs
  uint64_t first_sentence_ = 0;
  bool pairs_ = false;
  std::string begin_, end_, reply_, given_, answer_;
  std::vector<HiddenSentence> hidden_;
  std::vector<std::string> others_, references_;
  std::string key_;  // of the pair that is asked for
};

// A prompt as a model reads it, with the answers that it is asked about.
struct LongItem {
  int32_t length = 0;  // tokens that prompt and answer were to have
  double depth = -1;   // of the answer; below 0: it has none
  std::vector<int32_t> prompt = {};
  std::vector<int32_t> given = {};                 // what the answer begins with, which is not scored
  std::vector<std::vector<int32_t>> answers = {};  // the right ones, then wrong ones
  size_t right = 1;                                // how many are right
  std::vector<std::string> references = {};        // what an answer has to contain; empty: only likelihoods are scored
  int32_t most_new_tokens = 0;                     // of an answer
};

// The draft with as much of the long text as fits `length` tokens, answer included. Through the chat template if there is one.
// Errors: unsupported for a model without a tokenizer; invalid_argument for a length that the rest of the prompt does not fit; those of the
// tokenizer and the template.
Result<LongItem> long_item(const Engine& engine, const std::optional<ChatTemplate>& chat_template, const DraftPrompt& draft,
                           int32_t length);

// The tokens of a text that follows another one: what `before` + `text` has beyond `before`. Errors: unsupported where the tokenizer joins
// them.
Result<std::vector<int32_t>> following_tokens(const Tokenizer& tokenizer, const std::string& before, const std::string& text);

// A window of a text: all but its last `scored` tokens are the prompt, and these the answer. BOS comes first where the tokenizer begins
// texts with it.
LongItem text_item(const Engine& engine, std::span<const int32_t> window, int32_t scored);

}  // namespace onset
