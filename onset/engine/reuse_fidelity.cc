#include "onset/engine/reuse_fidelity.h"

#include <algorithm>

namespace onset {
namespace {

// The logits of the prompt's last `rows` tokens.
Result<std::vector<float>> read_logits(Engine& engine, const PromptParts& parts, std::span<const int32_t> prompt, const ContextReuse& way,
                                       int32_t rows) {
  const auto width = static_cast<size_t>(engine.model().config().vocabulary);
  std::vector<float> logits(static_cast<size_t>(rows) * width);
  // Rows are named by their place among the request's tokens, of which blended contexts are a part.
  int64_t first = static_cast<int64_t>(prompt.size()) - rows;
  if (std::holds_alternative<CacheBlendOptions>(way)) {
    first += static_cast<int64_t>(parts.prefix.size());
    for (const auto& context : parts.contexts) first += static_cast<int64_t>(context.size());
  }
  Request request{.tokens = {prompt.begin(), prompt.end()},
                  .most_new_tokens = 0,
                  .contexts = Contexts{parts.prefix, parts.contexts, way},
                  .on_logits = [&](int32_t position, std::span<const float> row) {
                    if (position >= first)
                      std::copy(row.begin(), row.end(), logits.begin() + static_cast<int64_t>(width) * (position - first));
                  }};
  ONSET_TRY(run_to_end(engine, std::move(request), {}));
  return logits;
}

}  // namespace

Result<std::vector<ReuseFidelity>> measure_reuse(Engine& engine, const PromptParts& parts, std::span<const ContextReuse> ways,
                                                 int32_t answer_tokens) {
  if (answer_tokens < 1) return error(Code::invalid_argument, "an answer of {} tokens: expected 1 or more", answer_tokens);
  const ContextReuse everything = CacheBlendOptions{.ratio = 1};
  std::vector<int32_t> answer;
  ONSET_TRY(run_to_end(engine,
                       {.tokens = parts.prompt,
                        .most_new_tokens = answer_tokens,
                        .ignore_end = true,
                        .contexts = Contexts{parts.prefix, parts.contexts, everything},
                        .prefix_cache = false},
                       [&](const Event& event) {
                         if (event.token) answer.push_back(event.token->token);
                       }));
  const auto rows = static_cast<int32_t>(answer.size());
  std::vector<int32_t> prompt = parts.prompt;
  prompt.insert(prompt.end(), answer.begin(), answer.end() - 1);
  ONSET_ASSIGN(const std::vector<float> reference, read_logits(engine, parts, prompt, everything, rows));
  const auto width = static_cast<size_t>(engine.model().config().vocabulary);
  std::vector<ReuseFidelity> measured;
  for (const ContextReuse& way : ways) {
    ONSET_ASSIGN(const std::vector<float> logits, read_logits(engine, parts, prompt, way, rows));
    ReuseFidelity& mean = measured.emplace_back();
    for (int32_t i = 0; i < rows; ++i) {
      const auto row = [&](const std::vector<float>& all) { return std::span(all).subspan(static_cast<size_t>(i) * width, width); };
      const RowDifference difference = compare_rows(engine.model().isa(), row(reference), row(logits), answer[i]);
      mean.kl += difference.kl / rows;
      mean.top1 += static_cast<double>(difference.same_top) / rows;
      mean.logprob += difference.tested_logprob / rows;
      mean.reference_logprob += difference.reference_logprob / rows;
    }
  }
  return measured;
}

}  // namespace onset
