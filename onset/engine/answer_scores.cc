#include "onset/engine/answer_scores.h"

#include <algorithm>
#include <limits>
#include <map>

#include "onset/compute/elementwise.h"

namespace onset {
namespace {

Contexts contexts_of(const PromptParts& parts, const ReadingWay& way) {
  if (way) return {parts.prefix, parts.contexts, *way};
  // A single context without scaling is sequential reading, and what was read is found again.
  std::vector<int32_t> all;
  for (const auto& context : parts.contexts) all.insert(all.end(), context.begin(), context.end());
  return {parts.prefix, {std::move(all)}, ParallelContextsOptions{.temperature = 1, .scale = 1}};
}

// Rows are named by their place among the tokens that the request itself reads: where the prompt begins among them.
int64_t prompt_begin(const Contexts& contexts) {
  const auto* parallel = std::get_if<ParallelContextsOptions>(&contexts.reuse);
  if (parallel != nullptr) return parallel->shared_prefix ? 0 : static_cast<int64_t>(contexts.prefix.size());
  auto count = static_cast<int64_t>(contexts.prefix.size());
  for (const auto& text : contexts.texts) count += static_cast<int64_t>(text.size());
  return count;
}

Status check_answers(const AnsweredPrompt& prompt) {
  if (prompt.answers.empty()) return error(Code::invalid_argument, "the list of answers is empty: expected one or more");
  for (size_t i = 0; i < prompt.answers.size(); ++i) {
    if (prompt.answers[i].empty()) return error(Code::invalid_argument, "answer {} is empty: expected one token or more", i + 1);
  }
  if (prompt.label.value_or(0) < prompt.answers.size()) return {};
  return error(Code::invalid_argument, "the right label is {}, expected 0 to {}", *prompt.label, prompt.answers.size() - 1);
}

}  // namespace

Status read_logits(Engine& engine, const PromptParts& parts, const ReadingWay& way, std::span<FollowingTokens> following) {
  const auto width = static_cast<int64_t>(engine.model().config().vocabulary);
  const Contexts contexts = contexts_of(parts, way);
  const int64_t first = prompt_begin(contexts) + static_cast<int64_t>(parts.prompt.size()) - 1;
  Status ended;
  for (FollowingTokens& each : following) {
    each.logits.resize((each.tokens.size() + 1) * static_cast<size_t>(width));
    Request request{.tokens = parts.prompt,
                    .most_new_tokens = 0,
                    .contexts = contexts,
                    .on_logits = [&each, first, width](int32_t position, std::span<const float> row) {
                      if (position >= first) std::copy(row.begin(), row.end(), each.logits.begin() + width * (position - first));
                    }};
    request.tokens.insert(request.tokens.end(), each.tokens.begin(), each.tokens.end());
    const auto id = engine.submit(std::move(request), [&ended](const Event& event) {
      if (ended.ok()) ended = event.status;
    });
    if (id.ok()) continue;
    ended = id.status();
    break;
  }
  while (engine.has_work()) ONSET_TRY(engine.step());
  return ended;
}

Result<AnswerScore> score_answers(Engine& engine, const AnsweredPrompt& prompt, const ReadingWay& way) {
  ONSET_TRY(check_answers(prompt));
  // Answers that differ in their last token alone are read together: labels of one token each take one reading.
  std::map<std::vector<int32_t>, size_t> place_of_head;
  std::vector<FollowingTokens> readings;
  std::vector<size_t> reading_of;
  for (const auto& answer : prompt.answers) {
    const std::vector<int32_t> head(answer.begin(), answer.end() - 1);
    const auto [place, is_new] = place_of_head.emplace(head, readings.size());
    if (is_new) readings.push_back({head, {}});
    reading_of.push_back(place->second);
  }
  ONSET_TRY(read_logits(engine, prompt.parts, way, readings));

  const auto width = static_cast<size_t>(engine.model().config().vocabulary);
  AnswerScore score;
  for (size_t i = 0; i < prompt.answers.size(); ++i) {
    double sum = 0;
    for (size_t token = 0; token < prompt.answers[i].size(); ++token) {
      const auto row = std::span<const float>(readings[reading_of[i]].logits).subspan(token * width, width);
      sum += row[prompt.answers[i][token]] - logit_statistics(engine.model().isa(), row).log_sum_exp;
    }
    score.answers.push_back(sum);
  }
  const auto mean = [&](size_t i) { return score.answers[i] / static_cast<double>(prompt.answers[i].size()); };
  if (prompt.label) {
    score.logprob = mean(*prompt.label);
    score.right = score.answers[*prompt.label] == *std::max_element(score.answers.begin(), score.answers.end());
    return score;
  }
  score.logprob = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < prompt.answers.size(); ++i) score.logprob = std::max(score.logprob, mean(i));
  return score;
}

}  // namespace onset
