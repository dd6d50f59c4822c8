// Select policies by their names, as options and requests write them:
//
//   all                       every token goes through every layer
//   lazyllm:LAYERS:KEEP       LazyLLM (select/lazy.h): after these layers (9,18,27) these shares go on (0.7, or one for each: 0.7,0.5,0.3)
//   lazyllm, lazyllm:mild     after 30, 60 and 90 % of the layers, 0.7 of the tokens each time
//   lazyllm:medium            at the same layers 0.7, 0.5, 0.3
//   lazyllm:fast              after 13, 33 and 60 % of the layers, half of them each time
//
// A lazyllm may end with :revive=N (tokens that come back in a step at most; 0: none), :least=N (shorter prompts are left alone),
// :score=random (instead of attention; for comparison).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "onset/base/status.h"
#include "onset/kv/sequence_cache.h"
#include "onset/select/policy.h"

namespace onset {

// What a name says. Shared by any number of requests, each of which gets a policy of its own.
class SelectSpec {
 public:
  virtual ~SelectSpec() = default;
  // The policy of one request; null for `all`. Errors: what the model cannot do, naming the field.
  virtual Result<std::unique_ptr<SelectPolicy>> make(const CacheLayout& layout) const = 0;
};

// Whether a text begins with the name of one.
bool is_select_name(std::string_view text);

// Errors: invalid_argument, showing the text and what was expected.
Result<std::shared_ptr<const SelectSpec>> named_select(const std::string& text);

}  // namespace onset
