#include "onset/model/config.h"

#include <array>
#include <cmath>

#include "onset/model/architecture.h"
#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

constexpr std::array architectures = {&llama_architecture, &qwen2_architecture, &qwen3_architecture, &gemma3_architecture};

// A size that a file declares: positive, and small enough that products of a few of them do not overflow.
Status read_size(const ModelFile& file, const std::string& key, int64_t largest, int32_t& size) {
  ONSET_ASSIGN(const int64_t value, file.integer(key));
  if (value < 1 || value > largest) {
    return error(Code::invalid_argument, "{}: {} is {}, expected 1 to {}", file.path().string(), key, value, largest);
  }
  size = static_cast<int32_t>(value);
  return {};
}

Status read_sizes(const ModelFile& file, ModelConfig& config) {
  ONSET_TRY(read_size(file, key_of(config, "block_count"), 1024, config.layers));
  ONSET_TRY(read_size(file, key_of(config, "embedding_length"), 1 << 17, config.hidden));
  ONSET_TRY(read_size(file, key_of(config, "feed_forward_length"), 1 << 20, config.feed_forward));
  ONSET_TRY(read_size(file, key_of(config, "attention.head_count"), 1024, config.query_heads));
  ONSET_TRY(read_size(file, key_of(config, "context_length"), 1 << 27, config.context));
  config.kv_heads = config.query_heads;
  if (file.has(key_of(config, "attention.head_count_kv"))) {
    ONSET_TRY(read_size(file, key_of(config, "attention.head_count_kv"), 1024, config.kv_heads));
  }
  config.head_size = config.hidden / config.query_heads;
  if (file.has(key_of(config, "attention.key_length"))) {
    ONSET_TRY(read_size(file, key_of(config, "attention.key_length"), 4096, config.head_size));
    ONSET_ASSIGN(const int64_t value_length, file.integer_or(key_of(config, "attention.value_length"), config.head_size));
    if (value_length != config.head_size) {
      return error(Code::unsupported, "{}: keys of {} and values of {} numbers differ, which this program cannot run", file.path().string(),
                   config.head_size, value_length);
    }
  }
  if (config.query_heads % config.kv_heads != 0) {
    return error(Code::invalid_argument, "{}: {} query heads cannot share {} key/value heads evenly", file.path().string(),
                 config.query_heads, config.kv_heads);
  }
  ONSET_ASSIGN(const double epsilon, file.real(key_of(config, "attention.layer_norm_rms_epsilon")));
  if (!(epsilon >= 0 && epsilon < 1)) {
    return error(Code::invalid_argument, "{}: {} is {}, expected 0 to 1", file.path().string(),
                 key_of(config, "attention.layer_norm_rms_epsilon"), epsilon);
  }
  config.norm_epsilon = static_cast<float>(epsilon);
  ONSET_ASSIGN(const StoredTensor* embedding, file.tensor("token_embd.weight"));
  if (embedding->shape.size() != 2 || embedding->columns() != config.hidden || embedding->rows() > (1 << 24)) {
    return error(Code::invalid_argument, "{}: tensor token_embd.weight is {}, expected [vocabulary, {}]", file.path().string(),
                 shape_text(embedding->shape), config.hidden);
  }
  config.vocabulary = static_cast<int32_t>(embedding->rows());
  return {};
}

}  // namespace

std::string key_of(const ModelConfig& config, const char* name) {
  return config.architecture + "." + name;
}

std::vector<std::string> architecture_names() {
  std::vector<std::string> names;
  for (const Architecture* architecture : architectures) names.emplace_back(architecture->name);
  return names;
}

Result<RopeConfig> read_rope(const ModelFile& file, const ModelConfig& config, bool interleaved) {
  RopeConfig rope;
  rope.interleaved = interleaved;
  ONSET_ASSIGN(const double base, file.real_or(key_of(config, "rope.freq_base"), 10000.0));
  ONSET_ASSIGN(const int64_t dimensions, file.integer_or(key_of(config, "rope.dimension_count"), config.head_size));
  ONSET_ASSIGN(const std::string_view scaling, file.text_or(key_of(config, "rope.scaling.type"), "none"));
  ONSET_ASSIGN(const double factor, file.real_or(key_of(config, "rope.scaling.factor"), 1.0));
  if (!(base > 0) || !std::isfinite(base) || !(factor > 0) || !std::isfinite(factor)) {
    return error(Code::invalid_argument, "{}: rope base {} and factor {} must be positive numbers", file.path().string(), base, factor);
  }
  if (dimensions < 2 || dimensions > config.head_size || dimensions % 2 != 0) {
    return error(Code::invalid_argument, "{}: {} is {}, expected an even number up to the head size {}", file.path().string(),
                 key_of(config, "rope.dimension_count"), dimensions, config.head_size);
  }
  rope.base = static_cast<float>(base);
  rope.dimensions = static_cast<int32_t>(dimensions);
  rope.factor = static_cast<float>(factor);
  if (scaling == "linear") {
    rope.scaling = RopeConfig::Scaling::linear;
  } else if (scaling == "yarn") {
    rope.scaling = RopeConfig::Scaling::yarn;
    ONSET_ASSIGN(const int64_t original, file.integer_or(key_of(config, "rope.scaling.original_context_length"), config.context));
    ONSET_ASSIGN(const double attention_factor, file.real_or(key_of(config, "rope.scaling.attn_factor"), 1.0));
    ONSET_ASSIGN(const double beta_fast, file.real_or(key_of(config, "rope.scaling.yarn_beta_fast"), 32.0));
    ONSET_ASSIGN(const double beta_slow, file.real_or(key_of(config, "rope.scaling.yarn_beta_slow"), 1.0));
    if (original < 1 || !(beta_fast > 0) || !(beta_slow > 0)) {
      return error(Code::invalid_argument, "{}: the yarn settings under {} make no sense", file.path().string(),
                   key_of(config, "rope.scaling"));
    }
    rope.original_context = static_cast<int32_t>(original);
    rope.beta_fast = static_cast<float>(beta_fast);
    rope.beta_slow = static_cast<float>(beta_slow);
    // YaRN section 3.4: queries and keys each carry sqrt of the temperature 0.1 ln(s) + 1.
    rope.attention_factor = static_cast<float>(attention_factor * (0.1 * std::log(std::max(1.0, factor)) + 1.0));
  } else if (scaling != "none") {
    return error(Code::unsupported, "{}: rope scaling \"{}\" is not known; known are none, linear, yarn and rope_freqs.weight",
                 file.path().string(), scaling);
  }
  if (const StoredTensor* factors = file.find_tensor("rope_freqs.weight"); factors != nullptr) {
    if (factors->shape != std::vector<int64_t>{dimensions / 2} || factors->dtype != DType::f32) {
      return error(Code::invalid_argument, "{}: tensor rope_freqs.weight is {} {}, expected F32 [{}]", file.path().string(),
                   dtype_name(factors->dtype), shape_text(factors->shape), dimensions / 2);
    }
    rope.scaling = RopeConfig::Scaling::factors;
    rope.frequency_factors.resize(dimensions / 2);
    dequantize_row(DType::f32, factors->bytes.data(), rope.frequency_factors);
    for (const float value : rope.frequency_factors) {
      if (!(value > 0) || !std::isfinite(value)) {
        return error(Code::invalid_argument, "{}: tensor rope_freqs.weight holds {}, expected positive numbers", file.path().string(),
                     value);
      }
    }
  }
  return rope;
}

Result<ModelConfig> read_config(const ModelFile& file) {
  ModelConfig config;
  ONSET_ASSIGN(const std::string_view architecture, file.text("general.architecture"));
  config.architecture = architecture;
  ONSET_ASSIGN(const std::string_view name, file.text_or("general.name", "unnamed"));
  config.name = name;
  for (const Architecture* known : architectures) {
    if (architecture != known->name) continue;
    ONSET_TRY(read_sizes(file, config));
    config.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_size)));
    config.layer.assign(config.layers, {});
    ONSET_TRY(known->describe(file, config));
    return config;
  }
  return error(Code::unsupported, "{}: architecture \"{}\" is not known; known are llama, qwen2, qwen3 and gemma3", file.path().string(),
               architecture);
}

int64_t parameter_count(const ModelConfig& config) {
  const int64_t attention = int64_t{config.hidden} * config.head_size * (2 * config.query_heads + 2 * config.kv_heads);
  const int64_t feed_forward = int64_t{3} * config.hidden * config.feed_forward;
  return config.layers * (attention + feed_forward) + int64_t{config.vocabulary} * config.hidden;
}

}  // namespace onset
