#include "onset/engine/reuse_fidelity.h"

namespace onset {
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
  FollowingTokens reference{.tokens = {answer.begin(), answer.end() - 1}, .logits = {}};
  ONSET_TRY(read_logits(engine, parts, everything, {&reference, 1}));
  const auto width = static_cast<size_t>(engine.model().config().vocabulary);
  std::vector<ReuseFidelity> measured;
  for (const ContextReuse& way : ways) {
    FollowingTokens tested{.tokens = reference.tokens, .logits = {}};
    ONSET_TRY(read_logits(engine, parts, way, {&tested, 1}));
    ReuseFidelity& mean = measured.emplace_back();
    for (int32_t i = 0; i < rows; ++i) {
      const auto row = [&](const std::vector<float>& all) { return std::span(all).subspan(static_cast<size_t>(i) * width, width); };
      const RowDifference difference = compare_rows(engine.model().isa(), row(reference.logits), row(tested.logits), answer[i]);
      mean.kl += difference.kl / rows;
      mean.top1 += static_cast<double>(difference.same_top) / rows;
      mean.logprob += difference.tested_logprob / rows;
      mean.reference_logprob += difference.reference_logprob / rows;
    }
  }
  return measured;
}

}  // namespace onset
