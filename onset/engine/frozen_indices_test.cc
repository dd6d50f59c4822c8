// MInference finds its columns and diagonals anew in each text: those of another text do worse (arXiv:2407.02490, table 4, "static").
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "onset/engine/scoring.h"
#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

// By layer and first row: what a policy planned.
using Plans = std::map<std::pair<int, int32_t>, AttentionPlan>;

// Keeps another policy's plans, or gives those that were kept.
class FrozenAttend : public AttendPolicy {
 public:
  FrozenAttend(std::unique_ptr<AttendPolicy> policy, Plans& plans) : policy_(std::move(policy)), plans_(&plans) {}
  const AttentionPlan& plan(const AttendContext& context) override {
    const std::pair key(context.layer, context.positions[0]);
    if (policy_ == nullptr) return plans_->at(key);
    return plans_->emplace(key, policy_->plan(context)).first->second;
  }

 private:
  std::unique_ptr<AttendPolicy> policy_;
  Plans* plans_;
};

class FrozenSpec : public AttendSpec {
 public:
  FrozenSpec(const AttendSpec& spec, Plans& plans, bool frozen)
      : AttendSpec(spec.text() + (frozen ? " frozen" : "")), spec_(spec), plans_(plans), frozen_(frozen) {}
  Status check(const AttendFacts& facts) const override { return spec_.check(facts); }
  std::unique_ptr<AttendPolicy> make(const AttendFacts& facts) const override {
    return std::make_unique<FrozenAttend>(frozen_ ? nullptr : spec_.make(facts), plans_);
  }
  bool stateless() const override { return true; }
  int32_t block_rows() const override { return spec_.block_rows(); }
  bool allows_dropped_rows() const override { return false; }

 private:
  const AttendSpec& spec_;
  Plans& plans_;
  bool frozen_;
};

// The logits behind each token.
std::vector<std::vector<float>> read(Engine& engine, const std::vector<int32_t>& tokens, std::shared_ptr<const AttendSpec> spec) {
  std::vector<std::vector<float>> logits(tokens.size());
  Request request{.tokens = tokens, .most_new_tokens = 0, .prefix_cache = false};
  request.attend_spec = std::move(spec);
  request.on_logits = [&](int32_t position, std::span<const float> row) { logits[position].assign(row.begin(), row.end()); };
  const Status status = run_to_end(engine, std::move(request), {});
  EXPECT_TRUE(status.ok()) << status.message();
  return logits;
}

double mean_distance(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b, size_t from) {
  double sum = 0;
  int64_t count = 0;
  for (size_t row = from; row < a.size(); ++row) {
    for (size_t i = 0; i < a[row].size(); ++i, ++count) sum += std::abs(a[row][i] - b[row][i]);
  }
  return sum / static_cast<double>(count);
}

// What the model itself tells of a beginning.
std::vector<int32_t> story(Engine& engine, const char* beginning, int32_t tokens) {
  std::vector<int32_t> text = *engine.tokenizer()->encode(beginning);
  Request request{.tokens = text, .most_new_tokens = tokens - static_cast<int32_t>(text.size()), .ignore_end = true};
  request.sampling.temperature = 1;
  EXPECT_TRUE(run_to_end(engine, std::move(request), [&](const Event& event) {
                if (event.token) text.push_back(event.token->token);
              }).ok());
  return text;
}

TEST(FrozenIndices, AreWorseOnAnotherTextThanThoseThatAreFoundInIt) {
  const auto engine = make_engine(test_options());
  constexpr int32_t tokens = 448, from = 128;
  const std::vector<int32_t> a = story(*engine, "Once upon a time there was a dog", tokens);
  const std::vector<int32_t> b = story(*engine, "Lily and Tom went to the park", tokens);
  const auto spec = parse_attend("minference:every=64:from=128:vertical=60:slash=72");
  ASSERT_TRUE(spec.ok());
  Plans plans;
  read(*engine, a, std::make_shared<FrozenSpec>(**spec, plans, false));
  EXPECT_EQ(plans.size(), 5u);  // all rows run together
  const auto dense = read(*engine, b, nullptr), dynamic = read(*engine, b, *spec);
  const auto frozen = read(*engine, b, std::make_shared<FrozenSpec>(**spec, plans, true));
  const double of_dynamic = mean_distance(dense, dynamic, from), of_frozen = mean_distance(dense, frozen, from);
  EXPECT_GT(of_dynamic, 0);
  EXPECT_LT(of_dynamic, of_frozen);
}

}  // namespace
}  // namespace onset
