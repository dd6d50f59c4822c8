#include "onset/model/load_options.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>
#include <vector>

#include "onset/attend/block_sparse.h"
#include "onset/attend/lserve_options.h"
#include "onset/model/rotary.h"

namespace onset {
namespace {

struct RopeScaling {
  std::string name;
  std::vector<double> numbers;  // the factor, and perhaps two bounds
};

Result<RopeScaling> parse_rope_scaling(std::string_view text) {
  const auto wrong = [&](const std::string& sentence) {
    return error(Code::invalid_argument, "rope scaling {}: {}", text.substr(0, 100), sentence);
  };
  RopeScaling scaling;
  size_t at = std::min(text.find(':'), text.size());
  scaling.name = text.substr(0, at);
  const bool bounds = scaling.name == "yarn" || scaling.name == "llama3";
  if (!bounds && scaling.name != "linear" && scaling.name != "ntk") {
    return wrong("expected linear:FACTOR, ntk:FACTOR, yarn:FACTOR[:FAST:SLOW] or llama3:FACTOR[:LOW:HIGH]");
  }
  while (at < text.size()) {
    const size_t end = std::min(text.find(':', at + 1), text.size());
    const std::string part(text.substr(at + 1, end - at - 1));
    char* rest = nullptr;
    const double value = std::strtod(part.c_str(), &rest);
    if (part.empty() || *rest != '\0' || !(value > 0 && value <= 1024)) {
      return wrong(fmt::format("{} is not a number above 0 and up to 1024", part.empty() ? "an empty place" : part));
    }
    scaling.numbers.push_back(value);
    at = end;
  }
  if (scaling.numbers.size() != 1 && !(bounds && scaling.numbers.size() == 3)) {
    return wrong(bounds ? "expected a factor, or a factor and two bounds" : "expected one factor");
  }
  if (scaling.numbers[0] < 1) return wrong(fmt::format("the factor is {}, expected 1 or more", scaling.numbers[0]));
  if (scaling.numbers.size() == 3) {
    const bool falling = scaling.name == "yarn";
    const double low = scaling.numbers[falling ? 2 : 1], high = scaling.numbers[falling ? 1 : 2];
    if (!(low < high)) return wrong(fmt::format("the bounds {} and {} are the wrong way round", scaling.numbers[1], scaling.numbers[2]));
  }
  return scaling;
}

// By how much each pair's frequency is divided (Llama 3.1's own code, in turns within the old context).
std::vector<float> llama3_factors(const RopeConfig& rope, double factor, double low, double high, int32_t context) {
  std::vector<float> factors;
  for (const float frequency : rotary_frequencies(rope)) {
    const double turns = context * static_cast<double>(frequency) / (2 * std::numbers::pi);
    const double smooth = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    factors.push_back(static_cast<float>(1.0 / ((1.0 - smooth) / factor + smooth)));
  }
  return factors;
}

void scale_rope(const RopeScaling& scaling, int32_t context, RopeConfig& rope) {
  const double factor = scaling.numbers[0];
  const auto bound = [&](size_t index, double otherwise) { return scaling.numbers.size() == 3 ? scaling.numbers[index] : otherwise; };
  if (scaling.name == "ntk") {
    if (rope.dimensions > 2) {
      rope.base = static_cast<float>(rope.base * std::pow(factor, rope.dimensions / (rope.dimensions - 2.0)));
    }
  } else if (scaling.name == "llama3") {
    rope.frequency_factors = llama3_factors(rope, factor, bound(1, 1), bound(2, 4), context);
    rope.scaling = RopeConfig::Scaling::factors;
  } else {
    rope.factor = static_cast<float>(factor);
    rope.scaling = RopeConfig::Scaling::linear;
    if (scaling.name == "linear") return;
    rope.scaling = RopeConfig::Scaling::yarn;
    rope.original_context = context;
    rope.beta_fast = static_cast<float>(bound(1, 32));
    rope.beta_slow = static_cast<float>(bound(2, 1));
    rope.attention_factor = static_cast<float>(0.1 * std::log(factor) + 1.0);
  }
}

Status apply_rope_scaling(std::string_view text, ModelConfig& config) {
  ONSET_ASSIGN(const RopeScaling scaling, parse_rope_scaling(text));
  std::vector<bool> far(config.ropes.size(), false);
  for (const LayerConfig& layer : config.layer) far[layer.rope] = far[layer.rope] || layer.window == 0;
  const bool all = std::find(far.begin(), far.end(), true) == far.end();
  for (size_t i = 0; i < config.ropes.size(); ++i) {
    if (!far[i] && !all) continue;
    if (config.ropes[i].scaling != RopeConfig::Scaling::none) {
      return error(Code::unsupported, "rope scaling {}: the model has a scaling of its own", text);
    }
    scale_rope(scaling, config.context, config.ropes[i]);
  }
  constexpr double longest = 1 << 27;
  config.context = static_cast<int32_t>(std::min(longest, std::floor(config.context * scaling.numbers[0])));
  return {};
}

// Streaming heads keep the sink's pages, those of the last tokens and the one that is being filled.
Status apply_streaming(std::string_view text, ModelConfig& config) {
  ONSET_ASSIGN(const LServeRequest request, parse_lserve(text, LServeNames::cache, /*files=*/true));
  ONSET_ASSIGN(const StreamingHeads heads, lserve_heads(request, config.layers, config.kv_heads));
  const BlockPattern blocks{.sink = request.options.sink / page_tokens, .local = request.options.local / page_tokens + 1};
  for (int32_t i = 0; i < config.layers; ++i) {
    if (config.layer[i].window > 0 || std::find(heads[i].begin(), heads[i].end(), true) == heads[i].end()) continue;
    config.layer[i].blocks = blocks;
    config.layer[i].streams = heads[i];
  }
  return {};
}

Status apply_layers(std::string_view text, ModelConfig& config) {
  constexpr std::string_view name = "longgen:";
  const std::string within = fmt::format("layers {}", text.substr(0, 100));
  if (text == "lserve" || text.starts_with("lserve:")) {
    return apply_streaming(text.substr(std::min<size_t>(text.size(), 7)), config).within(within);
  }
  if (!text.starts_with(name)) {
    return error(Code::invalid_argument, "{}: expected longgen:FULL[:NAME=TOKENS...] or lserve[:TABLE][:NAME=NUMBER...]", within);
  }
  auto options = parse_long_gen(text.substr(name.size()));
  if (!options.ok()) return options.status().within(within);
  if (const Status status = check_long_gen(*options, config.layers); !status.ok()) return status.within(within);
  if (options->head_step != 0) {
    return error(Code::unsupported, "{}: pages hold all KV heads, expected one pattern for them (no step)", within);
  }
  for (int32_t i = 0; i < config.layers; ++i) {
    if (config.layer[i].window > 0) return error(Code::unsupported, "{}: the model has layers with windows of their own", within);
    if (!long_gen_full(*options, config.layers, i)) config.layer[i].blocks = options->pattern;
  }
  return {};
}

}  // namespace

Status apply_load_options(std::string_view rope_scaling, std::string_view layers, ModelConfig& config) {
  if (!rope_scaling.empty()) ONSET_TRY(apply_rope_scaling(rope_scaling, config));
  return layers.empty() ? Status() : apply_layers(layers, config);
}

std::string load_options_identity(std::string_view rope_scaling, std::string_view layers) {
  std::string identity;
  if (!rope_scaling.empty()) identity += fmt::format("rope scaling {}\n", rope_scaling);
  if (!layers.empty()) identity += fmt::format("layers {}\n", layers);
  return identity;
}

}  // namespace onset
