#include "onset/engine/long_tasks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "onset/engine/chat.h"

namespace onset {
namespace {

using Random = std::mt19937_64;  // the standard says which numbers these are; its distributions differ from library to library

constexpr std::array<std::pair<LongTask, const char*>, 5> names = {{{LongTask::needle, "needle"},
                                                                    {LongTask::passkey, "passkey"},
                                                                    {LongTask::variables, "variables"},
                                                                    {LongTask::pairs, "pairs"},
                                                                    {LongTask::two_facts, "two-facts"}}};

constexpr std::array adjectives = {"amber", "brave", "calm",   "damp",   "early", "faint",  "gentle", "hollow",
                                   "icy",   "jolly", "keen",   "little", "merry", "narrow", "old",    "plain",
                                   "quiet", "round", "silver", "tall",   "urban", "vivid",  "warm",   "young"};
constexpr std::array nouns = {"anchor", "basket", "candle", "dragon", "engine",   "forest", "garden",  "hammer",
                              "island", "jacket", "kettle", "ladder", "mirror",   "needle", "orchard", "pillow",
                              "quarry", "rocket", "saddle", "temple", "umbrella", "valley", "window",  "yard"};
constexpr int32_t hops = 4;  // of variable tracking

std::string random_word(Random& random) {
  const uint64_t adjective = random() % adjectives.size(), noun = random() % nouns.size();
  return std::string(adjectives[adjective]) + " " + nouns[noun];
}

// A number of so many digits; the first is no zero.
std::string random_number(Random& random, int32_t digits) {
  std::string number(1, static_cast<char>('1' + random() % 9));
  while (static_cast<int32_t>(number.size()) < digits) number += static_cast<char>('0' + random() % 10);
  return number;
}

std::string random_letters(Random& random, int32_t count) {
  std::string letters;
  for (int32_t i = 0; i < count; ++i) letters += static_cast<char>('A' + random() % 26);
  return letters;
}

std::string random_hex(Random& random, int32_t digits) {
  std::string text;
  for (int32_t i = 0; i < digits; ++i) text += "0123456789abcdef"[random() % 16];
  return text;
}

// Texts that differ from each other and from those in `taken`.
template <typename Make>
std::vector<std::string> distinct(int32_t count, std::set<std::string> taken, Make make) {
  std::vector<std::string> texts;
  while (static_cast<int32_t>(texts.size()) < count) {
    std::string text = make();
    if (taken.insert(text).second) texts.push_back(std::move(text));
  }
  return texts;
}

std::string fact(const std::string& word, const std::string& number) {
  return "The secret number of the " + word + " is " + number + ".";
}

std::string chain_line(const std::vector<std::string>& variables, size_t i, const std::string& value) {
  return "VAR " + variables[i] + " = " + (i == 0 ? value : "VAR " + variables[i - 1]) + ".";
}

std::string list_of(const std::vector<std::string>& texts) {
  std::string list;
  for (const std::string& text : texts) list += (list.empty() ? " " : ", ") + text;
  return list;
}

}  // namespace

const char* long_task_name(LongTask task) {
  return std::find_if(names.begin(), names.end(), [&](const auto& each) { return each.first == task; })->second;
}

std::optional<LongTask> long_task(std::string_view name) {
  for (const auto& [task, its_name] : names) {
    if (name == its_name) return task;
  }
  return {};
}

bool has_depth(LongTask task) {
  return task != LongTask::variables;
}

DraftPrompt::DraftPrompt(LongTask task, const Haystack& haystack, double depth, uint64_t seed, int32_t others)
    : haystack_(&haystack), depth_(depth), seed_(seed) {
  Random random(seed);
  first_sentence_ = random() % haystack.sentences();
  switch (task) {
    case LongTask::needle:
      make_needle(random, others);
      break;
    case LongTask::passkey:
      make_passkey(random, others);
      break;
    case LongTask::variables:
      make_variables(random, others);
      break;
    case LongTask::pairs:
      make_pairs(random, others);
      break;
    case LongTask::two_facts:
      make_two_facts(random, others);
      break;
  }
}

void DraftPrompt::make_needle(Random& random, int32_t others) {
  const std::string word = random_word(random), number = random_number(random, 7);
  begin_ = "A secret number is hidden in the following text. Remember it.\n\n";
  hidden_ = {{fact(word, number), depth_}};
  end_ = "\n\nWhat is the secret number of the " + word + " that the text mentions?";
  reply_ = "The secret number of the " + word + " is";
  answer_ = " " + number;
  references_ = {number};
  others_ = distinct(others, {answer_}, [&] { return " " + random_number(random, 7); });
}

void DraftPrompt::make_passkey(Random& random, int32_t others) {
  const std::string key = random_number(random, 5);
  begin_ = "There is important information hidden in a lot of text that means nothing. Find it and remember it.\n\n";
  hidden_ = {{"The pass key is " + key + ". Remember it.", depth_}};
  end_ = "\n\nWhat is the pass key?";
  reply_ = "The pass key is";
  answer_ = " " + key;
  references_ = {key};
  others_ = distinct(others, {answer_}, [&] { return " " + random_number(random, 5); });
}

void DraftPrompt::make_variables(Random& random, int32_t others) {
  const std::string value = random_number(random, 5);
  const auto name = [&] { return random_letters(random, 5); };
  const std::vector<std::string> chain = distinct(hops + 1, {}, name);
  std::vector<double> depths;
  for (size_t i = 0; i < chain.size(); ++i) depths.push_back(static_cast<double>(random() % 1000) / 1000);
  std::sort(depths.begin(), depths.end());
  for (size_t i = 0; i < chain.size(); ++i) hidden_.push_back({chain_line(chain, i, value), depths[i]});
  // As RULER, one example with names of another form.
  const std::vector<std::string> example = distinct(hops + 1, {}, [&] { return random_letters(random, 3); });
  const std::string example_value = distinct(1, {value}, [&] { return random_number(random, 5); })[0];
  begin_ = "Variables are given values in a text. Remember which variables come to have which value.\n\n";
  for (size_t i = 0; i < example.size(); ++i) begin_ += chain_line(example, i, example_value) + " ";
  begin_ += "\nThe variables that have the value " + example_value + " are:" + list_of(example) + ".\n\n";
  end_ = "\n\nWhich variables have the value " + value + "?";
  reply_ = "The variables that have the value " + value + " are:";
  answer_ = list_of(chain);
  references_ = chain;
  const std::set<std::string> taken(chain.begin(), chain.end());
  for (int32_t i = 0; i < others; ++i) others_.push_back(list_of(distinct(hops + 1, taken, name)));
}

// Keys and values that differ from each other, and from those that are asked for: number i is the same however many there are.
class DraftPrompt::Pairs {
 public:
  Pairs(uint64_t seed, const std::string& key, const std::string& value) : random_(seed), taken_{key, value} {}
  std::string key() { return distinct(key_digits); }
  std::string value() { return distinct(value_digits); }

 private:
  static constexpr int32_t key_digits = 8, value_digits = 5;
  std::string distinct(int32_t digits) {
    for (;;) {
      std::string text = digits == key_digits ? random_hex(random_, digits) : random_number(random_, digits);
      if (taken_.insert(text).second) return text;
    }
  }
  Random random_;
  std::set<std::string> taken_;
};

void DraftPrompt::make_pairs(Random& random, int32_t others) {
  pairs_ = true;
  key_ = random_hex(random, 8);
  answer_ = random_number(random, 5);
  references_ = {answer_};
  begin_ = "Below is a JSON object with keys and values. Remember them.\n\n";
  end_ = "\n\nWhat is the value of the key \"" + key_ + "\"?";
  reply_ = "The value of the key \"" + key_ + "\" is \"";
  // Wrong answers are values of other keys: the first ones.
  Pairs pairs(seed_ + 1, key_, answer_);
  for (int32_t i = 0; i < others; ++i) {
    pairs.key();
    others_.push_back(pairs.value());
  }
}

std::string DraftPrompt::pairs_text(int64_t count) const {
  const int64_t place = std::llround(depth_ * static_cast<double>(count));
  Pairs pairs(seed_ + 1, key_, answer_);
  std::string text = "{";
  for (int64_t i = 0; i <= count; ++i) {
    const bool asked = i == place;
    const std::string key = asked ? key_ : pairs.key(), value = asked ? answer_ : pairs.value();
    text += "\"" + key + "\": \"" + value + (i < count ? "\",\n " : "\"}");
  }
  return text;
}

void DraftPrompt::make_two_facts(Random& random, int32_t others) {
  const std::vector<std::string> words = distinct(2, {}, [&] { return random_word(random); });
  const std::vector<std::string> numbers = distinct(2, {}, [&] { return random_number(random, 7); });
  begin_ = "Two secret numbers are hidden in the following text. Remember them.\n\n";
  // Half of the text lies between them, in either order.
  hidden_ = {{fact(words[0], numbers[0]), depth_ < 0.5 ? depth_ + 0.5 : depth_ - 0.5}, {fact(words[1], numbers[1]), depth_}};
  end_ = "\n\nWhat are the secret numbers of the " + words[0] + " and of the " + words[1] + " that the text mentions?";
  reply_ = "The secret number of the " + words[0] + " is";
  given_ = " " + numbers[0] + ". The secret number of the " + words[1] + " is";
  answer_ = " " + numbers[1];
  references_ = numbers;
  others_ = distinct(others, {answer_, " " + numbers[0]}, [&] { return " " + random_number(random, 7); });
  // The number that the answer has said already is the likeliest mistake.
  if (!others_.empty()) others_[0] = " " + numbers[0];
}

std::string DraftPrompt::message(int64_t count) const {
  return begin_ + (pairs_ ? pairs_text(count) : haystack_->text(first_sentence_, count, hidden_)) + end_;
}

Result<std::vector<int32_t>> following_tokens(const Tokenizer& tokenizer, const std::string& before, const std::string& text) {
  const EncodeOptions plain{.add_special = false, .parse_special = false};
  ONSET_ASSIGN(const std::vector<int32_t> head, tokenizer.encode(before, plain));
  ONSET_ASSIGN(std::vector<int32_t> all, tokenizer.encode(before + text, plain));
  if (all.size() > head.size() && std::equal(head.begin(), head.end(), all.begin())) {
    all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(head.size()));
    return all;
  }
  return error(Code::unsupported, "the tokenizer joins the end of \"{}\" with the beginning of \"{}\": expected them apart", before, text);
}

namespace {

// The prompt with `count` units of the long text, up to the beginning of the answer.
Result<std::vector<int32_t>> prompt_tokens(const Engine& engine, const std::optional<ChatTemplate>& chat_template, const DraftPrompt& draft,
                                           int64_t count) {
  std::vector<int32_t> tokens;
  if (chat_template) {
    ONSET_ASSIGN(tokens, render_chat(engine, *chat_template, {{"user", draft.message(count)}}));
  } else {
    ONSET_ASSIGN(tokens, engine.tokenizer()->encode(draft.message(count) + "\n", {.parse_special = false}));
  }
  ONSET_ASSIGN(const std::vector<int32_t> reply, engine.tokenizer()->encode(draft.reply(), {.add_special = false, .parse_special = false}));
  tokens.insert(tokens.end(), reply.begin(), reply.end());
  return tokens;
}

// The longest prompt of `most` tokens at most.
Result<std::vector<int32_t>> longest_prompt(const Engine& engine, const std::optional<ChatTemplate>& chat_template,
                                            const DraftPrompt& draft, int32_t most) {
  const auto fits = [&](const std::vector<int32_t>& tokens) { return static_cast<int64_t>(tokens.size()) <= most; };
  ONSET_ASSIGN(std::vector<int32_t> longest, prompt_tokens(engine, chat_template, draft, 0));
  if (!fits(longest)) {
    return error(Code::invalid_argument, "the prompt has {} tokens without any of its text, expected {} at most", longest.size(), most);
  }
  int64_t fitting = 0, beyond = 0;
  for (int64_t count = 16; beyond == 0 || beyond - fitting > 1; count = beyond == 0 ? 2 * count : (fitting + beyond) / 2) {
    ONSET_ASSIGN(std::vector<int32_t> tokens, prompt_tokens(engine, chat_template, draft, count));
    if (fits(tokens)) {
      fitting = count;
      longest = std::move(tokens);
    } else {
      beyond = count;
    }
  }
  return longest;
}

}  // namespace

Result<LongItem> long_item(const Engine& engine, const std::optional<ChatTemplate>& chat_template, const DraftPrompt& draft,
                           int32_t length) {
  if (engine.tokenizer() == nullptr) return error(Code::unsupported, "{} has no tokenizer", engine.model().file().path().string());
  constexpr int32_t spare_tokens = 8;  // an answer may come to its point a little later
  const Tokenizer& tokenizer = *engine.tokenizer();
  LongItem item{.length = length, .references = draft.references()};
  if (!draft.given().empty()) {
    ONSET_ASSIGN(item.given, following_tokens(tokenizer, draft.reply(), draft.given()));
  }
  const std::string before = draft.reply() + draft.given();
  ONSET_ASSIGN(item.answers.emplace_back(), following_tokens(tokenizer, before, draft.answer()));
  for (const std::string& other : draft.others()) {
    ONSET_ASSIGN(item.answers.emplace_back(), following_tokens(tokenizer, before, other));
  }
  size_t longest = 0;
  for (const std::vector<int32_t>& answer : item.answers) longest = std::max(longest, answer.size());
  item.most_new_tokens = static_cast<int32_t>(item.given.size() + longest) + spare_tokens;
  auto prompt = longest_prompt(engine, chat_template, draft, length - item.most_new_tokens);
  if (!prompt.ok()) return prompt.status().within(fmt::format("a length of {} tokens", length));
  item.prompt = *std::move(prompt);
  return item;
}

LongItem text_item(const Engine& engine, std::span<const int32_t> window, int32_t scored) {
  constexpr int32_t timed_tokens = 16;
  LongItem item{.length = static_cast<int32_t>(window.size()), .most_new_tokens = timed_tokens};
  const Tokenizer& tokenizer = *engine.tokenizer();
  if (tokenizer.add_bos() && tokenizer.bos()) item.prompt.push_back(*tokenizer.bos());
  const auto begin = window.begin() + static_cast<std::ptrdiff_t>(item.prompt.size());  // in place of the first tokens
  item.prompt.insert(item.prompt.end(), begin, window.end() - scored);
  item.answers.emplace_back(window.end() - scored, window.end());
  return item;
}

}  // namespace onset
