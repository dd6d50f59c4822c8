#include "onset/formats/huggingface.h"

#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "onset/formats/huggingface_config.h"
#include "onset/formats/json.h"
#include "onset/formats/safetensors.h"
#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

using huggingface::Architecture;
using huggingface::Configuration;
using huggingface::Sizes;
using nlohmann::json;

enum class Change { none, reorder_query, reorder_key, shift_norm };

// A tensor that the model must or may have: its name in either world, its shape, and what happens to it on
// the way.
struct Mapping {
  std::string huggingface, gguf;
  std::vector<int64_t> shape;
  Change change = Change::none;
  bool required = true;
};

std::vector<Mapping> mappings_of(const Architecture& architecture, const Sizes& sizes) {
  const int64_t hidden = sizes.hidden, query = sizes.heads * sizes.head, key = sizes.kv_heads * sizes.head;
  const Change norm = architecture.norm_shift != 0 ? Change::shift_norm : Change::none;
  const Change rows_q = architecture.reorders_rows ? Change::reorder_query : Change::none;
  const Change rows_k = architecture.reorders_rows ? Change::reorder_key : Change::none;
  std::vector<Mapping> result = {{"embed_tokens.weight", "token_embd.weight", {sizes.vocabulary, hidden}},
                                 {"norm.weight", "output_norm.weight", {hidden}, norm}};
  if (!sizes.tied) result.push_back({"lm_head.weight", "output.weight", {sizes.vocabulary, hidden}});
  for (int64_t layer = 0; layer < sizes.layers; ++layer) {
    const std::string from = "layers." + std::to_string(layer) + ".", to = "blk." + std::to_string(layer) + ".";
    const auto vector = [&](const char* source, const char* target, int64_t size) {
      result.push_back({from + source + ".weight", to + target + ".weight", {size}, norm});
    };
    const auto matrix = [&](const char* source, const char* target, int64_t out, int64_t in, Change change, bool biased = false) {
      result.push_back({from + source + ".weight", to + target + ".weight", {out, in}, change});
      result.push_back({from + source + ".bias", to + target + ".bias", {out}, change, biased});
    };
    vector("input_layernorm", "attn_norm", hidden);
    matrix("self_attn.q_proj", "attn_q", query, hidden, rows_q, architecture.biased);
    matrix("self_attn.k_proj", "attn_k", key, hidden, rows_k, architecture.biased);
    matrix("self_attn.v_proj", "attn_v", key, hidden, Change::none, architecture.biased);
    matrix("self_attn.o_proj", "attn_output", hidden, query, Change::none);
    if (architecture.query_key_norms) {
      vector("self_attn.q_norm", "attn_q_norm", sizes.head);
      vector("self_attn.k_norm", "attn_k_norm", sizes.head);
    }
    if (architecture.sandwich_norms) {
      vector("post_attention_layernorm", "post_attention_norm", hidden);
      vector("pre_feedforward_layernorm", "ffn_norm", hidden);
      vector("post_feedforward_layernorm", "post_ffw_norm", hidden);
    } else {
      vector("post_attention_layernorm", "ffn_norm", hidden);
    }
    matrix("mlp.gate_proj", "ffn_gate", sizes.feed_forward, hidden, Change::none);
    matrix("mlp.up_proj", "ffn_up", sizes.feed_forward, hidden, Change::none);
    matrix("mlp.down_proj", "ffn_down", hidden, sizes.feed_forward, Change::none);
  }
  return result;
}

// Hugging Face rotates pairs that lie half a head apart, llama.cpp's "llama" neighbours: within each head,
// row 2 j + h is the source's row h * (head / 2) + j. Works on rows of any size; a bias has rows of one
// number.
std::vector<std::byte> reordered(std::span<const std::byte> bytes, int64_t heads, int64_t head) {
  const size_t row = bytes.size() / static_cast<size_t>(heads * head);
  std::vector<std::byte> result(bytes.size());
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < head; ++i) {
      const int64_t source = h * head + i % 2 * (head / 2) + i / 2;
      std::memcpy(result.data() + static_cast<size_t>(h * head + i) * row, bytes.data() + static_cast<size_t>(source) * row, row);
    }
  }
  return result;
}

std::vector<std::byte> to_f32(const StoredTensor& tensor, float shift) {
  std::vector<float> values(static_cast<size_t>(tensor.columns()));
  dequantize_row(tensor.dtype, tensor.bytes.data(), values);
  for (float& value : values) value += shift;
  std::vector<std::byte> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

Status add_owned(ModelFile& model, StoredTensor tensor, std::vector<std::byte> bytes) {
  auto owned = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  tensor.bytes = *owned;
  model.keep(std::move(owned));
  return model.add_tensor(std::move(tensor));
}

Status add_mapped(const Architecture& architecture, const Sizes& sizes, const Mapping& mapping, const StoredTensor& source,
                  ModelFile& model) {
  if (source.shape != mapping.shape) {
    return error(Code::invalid_argument, "{}: tensor {} has shape {}, config.json says {}", model.path().string(), source.name,
                 shape_text(source.shape), shape_text(mapping.shape));
  }
  if (!is_weight_type(source.dtype)) {
    return error(Code::unsupported, "{}: tensor {} has element type {}; F32, F16 and BF16 can be read", model.path().string(), source.name,
                 dtype_name(source.dtype));
  }
  StoredTensor tensor = source;
  tensor.name = mapping.gguf;
  std::vector<std::byte> bytes;
  if (tensor.shape.size() == 1) {
    bytes = to_f32(source, mapping.change == Change::shift_norm ? architecture.norm_shift : 0.0f);
    tensor.dtype = DType::f32;
    tensor.bytes = bytes;
  }
  if (mapping.change == Change::reorder_query || mapping.change == Change::reorder_key) {
    bytes = reordered(tensor.bytes, mapping.change == Change::reorder_query ? sizes.heads : sizes.kv_heads, sizes.head);
  }
  if (bytes.empty()) return model.add_tensor(std::move(tensor));
  return add_owned(model, std::move(tensor), std::move(bytes));
}

// Names that some files carry and nobody needs: buffers that follow from the configuration.
bool is_ignorable(std::string_view name, bool tied) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".masked_bias") || (tied && name.ends_with("lm_head.weight"));
}

Status add_tensors(const Architecture& architecture, const Sizes& sizes, const Safetensors& weights, ModelFile& model) {
  std::set<std::string> used;
  for (const Mapping& mapping : mappings_of(architecture, sizes)) {
    // A bare text model (Gemma3TextModel) lacks the "model." in front.
    std::string name = mapping.huggingface == "lm_head.weight" ? mapping.huggingface : "model." + mapping.huggingface;
    if (weights.find(name) == nullptr && weights.find(mapping.huggingface) != nullptr) name = mapping.huggingface;
    if (weights.find(name) == nullptr && !mapping.required && !weights.unsupported().contains(name)) continue;
    ONSET_ASSIGN(const StoredTensor* source, weights.tensor(name));
    ONSET_TRY(add_mapped(architecture, sizes, mapping, *source, model));
    used.insert(name);
  }
  for (const StoredTensor& tensor : weights.tensors()) {
    if (!used.contains(tensor.name) && !is_ignorable(tensor.name, sizes.tied)) {
      return error(Code::unsupported, "{}: tensor {} is not part of {} as this program knows it", weights.path().string(), tensor.name,
                   architecture.huggingface);
    }
  }
  for (const auto& [name, type] : weights.unsupported()) {
    if (!is_ignorable(name, sizes.tied)) {
      return error(Code::unsupported, "{}: tensor {} has element type {}; F32, F16 and BF16 can be read", weights.path().string(), name,
                   type);
    }
  }
  for (const auto& file : weights.files()) model.keep(file);
  return {};
}

}  // namespace

Result<ModelFile> open_huggingface(const std::filesystem::path& folder) {
  ONSET_ASSIGN(const json config_json, read_json(folder / "config.json"));
  ONSET_ASSIGN(const JsonObject config, JsonObject::of(config_json, (folder / "config.json").string()));
  auto metadata = std::make_shared<GgufMetadata>();
  ONSET_ASSIGN(const Configuration configuration, huggingface::read_configuration(config, *metadata));
  const auto named = std::filesystem::path(folder / "").lexically_normal().parent_path().filename();
  metadata->set_text("general.type", "model");
  metadata->set_text("general.name", named.empty() ? std::string("model") : named.string());

  ONSET_ASSIGN(const Safetensors weights, Safetensors::open(folder));
  ModelFile model(folder);
  ONSET_TRY(add_tensors(*configuration.architecture, configuration.sizes, weights, model));
  // Only now is it known that the vocabulary of config.json is as large as the embedding, and no larger.
  ONSET_TRY(read_tokenizer(folder, configuration.sizes.vocabulary, *metadata));
  for (const MetadataEntry& entry : metadata->entries()) ONSET_TRY(model.add_metadata(entry));
  model.keep(metadata);
  if (const std::vector<float>& factors = configuration.frequency_factors; !factors.empty()) {
    std::vector<std::byte> bytes(factors.size() * sizeof(float));
    std::memcpy(bytes.data(), factors.data(), bytes.size());
    StoredTensor tensor{"rope_freqs.weight", DType::f32, {static_cast<int64_t>(factors.size())}, {}};
    ONSET_TRY(add_owned(model, std::move(tensor), std::move(bytes)));
  }
  return model;
}

}  // namespace onset
