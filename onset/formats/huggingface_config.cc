#include "onset/formats/huggingface_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string>

namespace onset::huggingface {
namespace {

using nlohmann::json;

constexpr std::array architectures = {
    Architecture{"LlamaForCausalLM", "llama", true, false, false, false, 0, false},
    Architecture{"MistralForCausalLM", "llama", true, false, false, false, 0, false},
    Architecture{"Qwen2ForCausalLM", "qwen2", false, false, false, true, 0, false},
    Architecture{"Qwen3ForCausalLM", "qwen3", false, false, true, false, 0, false},
    Architecture{"Gemma3ForCausalLM", "gemma3", false, true, true, false, 1, true},
    Architecture{"Gemma3TextModel", "gemma3", false, true, true, false, 1, true},
};

Result<const Architecture*> architecture_of(const JsonObject& config) {
  const json* names = config.find("architectures");
  if (names == nullptr || !names->is_array() || names->empty() || !(*names)[0].is_string()) {
    return error(Code::invalid_argument, "{}: field architectures is not a list of names", config.what());
  }
  const auto name = (*names)[0].get<std::string>();
  std::string known;
  for (const Architecture& architecture : architectures) {
    if (name == architecture.huggingface) return &architecture;
    known += (known.empty() ? "" : ", ") + std::string(architecture.huggingface);
  }
  return error(Code::unsupported, "{}: architecture {} is not known; known are {}", config.what(), name, known);
}

Result<Sizes> read_sizes(const JsonObject& config, const Architecture& architecture) {
  constexpr int64_t largest = int64_t{1} << 30;
  Sizes sizes;
  ONSET_ASSIGN(sizes.layers, config.integer_within("num_hidden_layers", 1, 4096));
  ONSET_ASSIGN(sizes.hidden, config.integer_within("hidden_size", 1, largest));
  ONSET_ASSIGN(sizes.feed_forward, config.integer_within("intermediate_size", 1, largest));
  ONSET_ASSIGN(sizes.heads, config.integer_within("num_attention_heads", 1, sizes.hidden));
  sizes.kv_heads = sizes.heads;
  if (config.has("num_key_value_heads")) {
    ONSET_ASSIGN(sizes.kv_heads, config.integer_within("num_key_value_heads", 1, sizes.heads));
  }
  // The configuration classes of Gemma and Qwen3 have a value of their own where the file says nothing.
  sizes.head = architecture.sandwich_norms ? 256 : architecture.query_key_norms ? 128 : sizes.hidden / sizes.heads;
  if (config.has("head_dim")) {
    ONSET_ASSIGN(sizes.head, config.integer_within("head_dim", 1, 65536));
  }
  if (sizes.head % 2 != 0 || sizes.heads % sizes.kv_heads != 0) {
    return error(Code::invalid_argument, "{}: {} heads of size {} with {} key/value heads cannot be", config.what(), sizes.heads,
                 sizes.head, sizes.kv_heads);
  }
  ONSET_ASSIGN(sizes.vocabulary, config.integer_within("vocab_size", 1, largest));
  ONSET_ASSIGN(sizes.tied, config.boolean_or("tie_word_embeddings", architecture.tied_by_default));
  return sizes;
}

// The rotary parameters: "rope_parameters" of newer files (in Gemma 3 one set per kind of layer), or
// "rope_theta" and "rope_scaling" of older ones.
struct Rope {
  double base = 10000.0;
  double local_base = 10000.0;    // Gemma's layers with a window
  const json* scaling = nullptr;  // the object that has rope_type
};

Result<Rope> read_rope(const JsonObject& config, const Architecture& architecture) {
  Rope rope;
  if (architecture.sandwich_norms) rope.base = 1e6;
  ONSET_ASSIGN(rope.base, config.real_or("rope_theta", rope.base));
  ONSET_ASSIGN(rope.local_base, config.real_or("rope_local_base_freq", rope.local_base));
  rope.scaling = config.find("rope_scaling");
  if (config.has("rope_parameters")) {
    ONSET_ASSIGN(JsonObject parameters, config.object("rope_parameters"));
    if (parameters.has("sliding_attention")) {
      ONSET_ASSIGN(const JsonObject local, parameters.object("sliding_attention"));
      ONSET_ASSIGN(rope.local_base, local.real_or("rope_theta", rope.local_base));
      ONSET_ASSIGN(const std::string type, local.text_or("rope_type", "default"));
      if (type != "default") {
        return error(Code::unsupported, "{}: rope scaling {} of layers with a window is not known", local.what(), type);
      }
    }
    if (parameters.has("full_attention")) {
      ONSET_ASSIGN(parameters, parameters.object("full_attention"));
    }
    ONSET_ASSIGN(rope.base, parameters.real_or("rope_theta", rope.base));
    rope.scaling = &parameters.value();
  }
  return rope;
}

// rope_freqs.weight of Llama 3.1 and later: what each frequency is divided by. Long wavelengths are stretched
// by `factor`, short ones stay, those between are interpolated.
Result<std::vector<float>> llama3_factors(const JsonObject& scaling, const Sizes& sizes, double base) {
  ONSET_ASSIGN(const double factor, scaling.real_or("factor", 8.0));
  ONSET_ASSIGN(const double low, scaling.real_or("low_freq_factor", 1.0));
  ONSET_ASSIGN(const double high, scaling.real_or("high_freq_factor", 4.0));
  ONSET_ASSIGN(const double original, scaling.real_or("original_max_position_embeddings", 8192));
  if (!(factor > 0) || !(low > 0) || !(high > low) || !(original > 0)) {
    return error(Code::invalid_argument, "{}: factors {}, {}, {} and context {} make no sense", scaling.what(), factor, low, high,
                 original);
  }
  std::vector<float> factors;
  for (int64_t i = 0; i < sizes.head / 2; ++i) {
    const double frequency = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(sizes.head));
    const double wavelength = 2 * std::numbers::pi / frequency;
    double divisor = 1;
    if (wavelength > original / low) {
      divisor = factor;
    } else if (wavelength >= original / high) {
      const double smooth = (original / wavelength - low) / (high - low);
      divisor = 1 / ((1 - smooth) / factor + smooth);
    }
    factors.push_back(static_cast<float>(divisor));
  }
  return factors;
}

// YaRN multiplies sine and cosine by 0.1 ln(factor) + 1 unless the file says otherwise; GGUF has the
// quotient.
Result<double> yarn_attention_factor(const JsonObject& scaling, double factor) {
  const auto magnitude = [factor](double scale) { return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0; };
  if (scaling.has("attention_factor")) {
    ONSET_ASSIGN(const double value, scaling.real("attention_factor"));
    return value / magnitude(1);
  }
  ONSET_ASSIGN(const double scale, scaling.real_or("mscale", 0));
  ONSET_ASSIGN(const double scale_all, scaling.real_or("mscale_all_dim", 0));
  if (scale == 0 || scale_all == 0) return 1.0;
  return magnitude(scale) / magnitude(scale_all) / magnitude(1);
}

// Sets the scaling keys; returns the frequency factors where the scaling is Llama 3's.
Result<std::vector<float>> set_rope_scaling(const JsonObject& config, const Rope& rope, const Sizes& sizes, const std::string& prefix,
                                            GgufMetadata& metadata) {
  if (rope.scaling == nullptr) return std::vector<float>();
  ONSET_ASSIGN(const JsonObject scaling, JsonObject::of(*rope.scaling, config.what() + ": rope scaling"));
  ONSET_ASSIGN(const std::string old_name, scaling.text_or("type", "default"));
  ONSET_ASSIGN(const std::string type, scaling.text_or("rope_type", old_name));
  ONSET_ASSIGN(const double partial, scaling.real_or("partial_rotary_factor", 1.0));
  if (partial != 1.0) {
    return error(Code::unsupported, "{}: partial_rotary_factor {} is not known", scaling.what(), partial);
  }
  if (type == "default") return std::vector<float>();
  if (type == "llama3") return llama3_factors(scaling, sizes, rope.base);
  if (type != "linear" && type != "yarn") {
    return error(Code::unsupported, "{}: type {} is not known; known are default, linear, yarn and llama3", scaling.what(), type);
  }
  ONSET_ASSIGN(const double factor, scaling.real("factor"));
  if (!(factor > 0)) return error(Code::invalid_argument, "{}: factor is {}, expected above 0", scaling.what(), factor);
  metadata.set_text(prefix + "rope.scaling.type", type);
  metadata.set_f32(prefix + "rope.scaling.factor", static_cast<float>(factor));
  if (type == "linear") return std::vector<float>();

  ONSET_ASSIGN(const bool truncate, scaling.boolean_or("truncate", true));
  if (!truncate) return error(Code::unsupported, "{}: yarn with truncate false is not known", scaling.what());
  ONSET_ASSIGN(const int64_t context, config.integer_within("max_position_embeddings", 1, INT32_MAX));
  ONSET_ASSIGN(const int64_t original, scaling.integer_or("original_max_position_embeddings", context));
  if (original < 1 || original > INT32_MAX) {
    return error(Code::invalid_argument, "{}: original_max_position_embeddings is {}", scaling.what(), original);
  }
  metadata.set_u32(prefix + "rope.scaling.original_context_length", static_cast<uint32_t>(original));
  ONSET_ASSIGN(const double attention, yarn_attention_factor(scaling, factor));
  if (std::fabs(attention - 1) > 1e-6) metadata.set_f32(prefix + "rope.scaling.attn_factor", static_cast<float>(attention));
  for (const char* name : {"beta_fast", "beta_slow"}) {
    if (!scaling.has(name)) continue;
    ONSET_ASSIGN(const double beta, scaling.real(name));
    metadata.set_f32(prefix + "rope.scaling.yarn_" + name, static_cast<float>(beta));
  }
  return std::vector<float>();
}

// How often a layer without a window comes: 6 for "five with, one without". 0: no layer has a window, 1: none
// is without.
Result<int64_t> window_period(const JsonObject& config, const Sizes& sizes) {
  const json* types = config.find("layer_types");
  if (types == nullptr) {
    ONSET_ASSIGN(const int64_t underscored, config.integer_or("_sliding_window_pattern", 6));
    return config.integer_or("sliding_window_pattern", underscored);
  }
  if (!types->is_array() || static_cast<int64_t>(types->size()) != sizes.layers) {
    return error(Code::invalid_argument, "{}: field layer_types is not a list of {} names", config.what(), sizes.layers);
  }
  std::vector<bool> full;
  for (const json& type : *types) {
    if (type != "full_attention" && type != "sliding_attention") {
      return error(Code::unsupported, "{}: layer type {} is not known", config.what(), type.dump());
    }
    full.push_back(type == "full_attention");
  }
  if (std::find(full.begin(), full.end(), false) == full.end()) return 0;
  const auto first = std::find(full.begin(), full.end(), true);
  const int64_t period = first == full.end() ? sizes.layers + 1 : first - full.begin() + 1;
  for (int64_t i = 0; i < sizes.layers; ++i) {
    if (full[static_cast<size_t>(i)] != ((i + 1) % period == 0)) {
      return error(Code::unsupported, "{}: field layer_types has no regular period", config.what());
    }
  }
  return period;
}

// Windows: Mistral's for every layer, Gemma's for all but every sixth. Qwen's files name a window that is
// switched off.
Status set_window(const JsonObject& config, const Architecture& architecture, const Sizes& sizes, const std::string& prefix,
                  GgufMetadata& metadata) {
  const std::string gguf = architecture.gguf;
  if (gguf == "qwen2" || gguf == "qwen3") {
    ONSET_ASSIGN(const bool used, config.boolean_or("use_sliding_window", false));
    if (used) return error(Code::unsupported, "{}: use_sliding_window true is not known for {}", config.what(), gguf);
    return {};
  }
  const bool mistral = std::string(architecture.huggingface).starts_with("Mistral");
  if ((!mistral && !architecture.sandwich_norms) || !config.has("sliding_window")) return {};
  ONSET_ASSIGN(const int64_t window, config.integer_within("sliding_window", 1, INT32_MAX));
  if (architecture.sandwich_norms) {
    ONSET_ASSIGN(const int64_t period, window_period(config, sizes));
    if (period <= 0 || period == 1) return error(Code::unsupported, "{}: a Gemma 3 model without windows is not known", config.what());
    if (period != 6) metadata.set_u32(prefix + "attention.sliding_window_pattern", static_cast<uint32_t>(period));
  }
  metadata.set_u32(prefix + "attention.sliding_window", static_cast<uint32_t>(window));
  return {};
}

// What none of the readers of these files can do is refused here instead of computed wrongly.
Status check_supported(const JsonObject& config, const Architecture& architecture, const Sizes& sizes) {
  const char* wanted = architecture.sandwich_norms ? "gelu_pytorch_tanh" : "silu";
  for (const char* field : {"hidden_act", "hidden_activation"}) {
    ONSET_ASSIGN(const std::string activation, config.text_or(field, wanted));
    // Gemma's older files say "gelu" in one of the two fields; the model code reads hidden_activation.
    const bool ignored = architecture.sandwich_norms && std::string_view(field) == "hidden_act";
    if (activation != wanted && !ignored) {
      return error(Code::unsupported, "{}: activation {} is not known for {}, expected {}", config.what(), activation,
                   architecture.huggingface, wanted);
    }
  }
  if (!architecture.sandwich_norms) return {};
  ONSET_ASSIGN(const bool both_ways, config.boolean_or("use_bidirectional_attention", false));
  if (both_ways) return error(Code::unsupported, "{}: use_bidirectional_attention true is not known", config.what());
  if (config.has("attn_logit_softcapping") || config.has("final_logit_softcapping")) {
    return error(Code::unsupported, "{}: soft-capped logits are not known", config.what());
  }
  ONSET_ASSIGN(const double scalar, config.real_or("query_pre_attn_scalar", 256));
  const double usual = static_cast<double>(sizes.layers == 62 ? sizes.hidden / sizes.heads : sizes.head);
  if (scalar != usual) {
    return error(Code::unsupported, "{}: query_pre_attn_scalar {} is not known, expected {}", config.what(), scalar, usual);
  }
  return {};
}

Status set_configuration(const JsonObject& config, const Architecture& architecture, const Sizes& sizes, const Rope& rope,
                         GgufMetadata& metadata) {
  const std::string prefix = std::string(architecture.gguf) + ".";
  const auto set = [&](const char* key, int64_t value) { metadata.set_u32(prefix + key, static_cast<uint32_t>(value)); };
  set("block_count", sizes.layers);
  ONSET_ASSIGN(const int64_t context, config.integer_within("max_position_embeddings", 1, INT32_MAX));
  set("context_length", context);
  set("embedding_length", sizes.hidden);
  set("feed_forward_length", sizes.feed_forward);
  set("attention.head_count", sizes.heads);
  set("attention.head_count_kv", sizes.kv_heads);
  set("attention.key_length", sizes.head);
  set("attention.value_length", sizes.head);
  set("rope.dimension_count", sizes.head);
  set("vocab_size", sizes.vocabulary);
  ONSET_ASSIGN(const double epsilon, config.real_or("rms_norm_eps", 1e-6));
  metadata.set_f32(prefix + "attention.layer_norm_rms_epsilon", static_cast<float>(epsilon));
  if (!(rope.base > 0) || !(rope.local_base > 0)) {
    return error(Code::invalid_argument, "{}: rotary bases {} and {} must be above 0", config.what(), rope.base, rope.local_base);
  }
  metadata.set_f32(prefix + "rope.freq_base", static_cast<float>(rope.base));
  if (architecture.sandwich_norms) metadata.set_f32(prefix + "rope.freq_base_swa", static_cast<float>(rope.local_base));
  return set_window(config, architecture, sizes, prefix, metadata);
}

}  // namespace

Result<Configuration> read_configuration(const JsonObject& config, GgufMetadata& metadata) {
  Configuration result;
  ONSET_ASSIGN(result.architecture, architecture_of(config));
  const Architecture& architecture = *result.architecture;
  ONSET_ASSIGN(result.sizes, read_sizes(config, architecture));
  ONSET_TRY(check_supported(config, architecture, result.sizes));
  ONSET_ASSIGN(const Rope rope, read_rope(config, architecture));
  const std::string prefix = std::string(architecture.gguf) + ".";
  metadata.set_text("general.architecture", architecture.gguf);
  ONSET_TRY(set_configuration(config, architecture, result.sizes, rope, metadata));
  ONSET_ASSIGN(result.frequency_factors, set_rope_scaling(config, rope, result.sizes, prefix, metadata));
  return result;
}

}  // namespace onset::huggingface
