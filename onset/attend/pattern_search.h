// The search for each head's way of looking (MInference, arXiv:2407.02490, section 3.1, algorithm 1), once for each model: among ways of
// equal cost in the kernel, the one whose output lies nearest to that of the dense head.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "onset/attend/minference.h"

namespace onset {

struct PatternSearchOptions {
  int32_t length = 8192;    // tokens of the prompt; the table's reference length
  double tolerance = 0.05;  // how far a candidate's cost may lie from the target, as a share of it
  // Only vertical-slash ways, as in the published tables: they follow texts that are unlike those of the search.
  bool slash_alone = false;
  MInferenceOptions inference;  // `every`: rows at the end of the prompt that are compared
};

// What was tried for a head.
struct PatternTrial {
  HeadPattern pattern;  // with the mean distance of its output as score
  double slots = 0;     // keys computed for a row, on average
  double target = 0;    // and how many it was to be
};

// What was found so far.
struct PatternFindings {
  std::vector<std::vector<std::vector<PatternTrial>>> trials;  // [layer][head], none where a layer has a window of its own
  int32_t layers_done = 0;
};
// Adds what was found with another prompt, of the same model and options: distances and costs are summed, budgets are means of `prompts`
// prompts so far and one more.
void add_findings(PatternFindings& sum, const PatternFindings& more, int32_t prompts);
// The best of each head for a mean cost of target_slots(length) keys a row; layers with windows have none. The paper gives each head that
// cost. Here heads may have from half to twice of it: those whose output gains most for a key get more (one after the other along the
// convex hulls of distance over cost). even: as the paper does it.
HeadTable best_table(const PatternFindings& findings, const PatternSearchOptions& options, bool even = false);

// Sees everything, and at the end of the prompt tries all candidates for each head of the layer. Serves one prompt of options.length
// tokens.
class PatternSearch : public AttendPolicy {
 public:
  // `findings` must outlive it.
  PatternSearch(const PatternSearchOptions& options, int32_t layers, int32_t query_heads, PatternFindings& findings);
  const AttentionPlan& plan(const AttendContext& context) override;

 private:
  void try_all(const AttendContext& context, int32_t row_begin);

  PatternSearchOptions options_;
  PatternFindings& findings_;
  DenseAttend dense_;
};

// Candidates near `target` keys for a row, for a prompt of `length` tokens: A-shape, four vertical-slash ones and block-sparse.
std::vector<HeadPattern> pattern_candidates(int32_t length, int32_t target);

}  // namespace onset
