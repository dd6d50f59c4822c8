#include "onset/formats/huggingface.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "onset/formats/json.h"
#include "onset/formats/open_model.h"
#include "onset/formats/safetensors.h"
#include "onset/formats/testing.h"
#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

using namespace testing;
using nlohmann::json;

std::vector<float> values_of(const StoredTensor& tensor, int64_t row = 0) {
  std::vector<float> values(static_cast<size_t>(tensor.columns()));
  dequantize_row(tensor.dtype, tensor.row(row).data(), values);
  return values;
}

// A copy of a fixture model whose JSON files can be changed.
class Folder {
 public:
  explicit Folder(const std::string& model) {
    std::filesystem::copy(fixtures / "models" / model, folder_.path(), std::filesystem::copy_options::recursive);
  }
  template <typename Change>
  Folder& edit(const std::string& name, Change change) {
    json value = std::filesystem::exists(folder_ / name) ? json::parse(slurp(folder_ / name)) : json::object();
    change(value);
    spill(folder_ / name, value.dump());
    return *this;
  }
  Folder& config(const json& patch) {
    return edit("config.json", [&](json& value) { value.merge_patch(patch); });
  }
  Status open() const { return open_huggingface(folder_.path()).status(); }
  ModelFile model() const { return value_of(open_huggingface(folder_.path())); }
  std::filesystem::path operator/(const std::string& name) const { return folder_ / name; }

 private:
  TemporaryFolder folder_;
};

TEST(HuggingFace, LlamaBecomesWhatLlamaCppDefines) {
  const ModelFile model = value_of(open_model(fixtures / "models/llama"));
  EXPECT_EQ(value_of(model.text("general.architecture")), "llama");
  EXPECT_EQ(value_of(model.text("general.name")), "llama");
  EXPECT_EQ(value_of(model.integer("llama.block_count")), 3);
  EXPECT_EQ(value_of(model.integer("llama.embedding_length")), 64);
  EXPECT_EQ(value_of(model.integer("llama.feed_forward_length")), 96);
  EXPECT_EQ(value_of(model.integer("llama.context_length")), 1024);
  EXPECT_EQ(value_of(model.integer("llama.attention.head_count")), 4);
  EXPECT_EQ(value_of(model.integer("llama.attention.head_count_kv")), 2);
  EXPECT_EQ(value_of(model.integer("llama.rope.dimension_count")), 16);
  EXPECT_EQ(value_of(model.integer("llama.vocab_size")), 320);
  EXPECT_NEAR(value_of(model.real("llama.attention.layer_norm_rms_epsilon")), 1e-5, 1e-9);
  EXPECT_EQ(value_of(model.real("llama.rope.freq_base")), 10000.0);
  EXPECT_FALSE(model.has("llama.rope.scaling.type"));
  EXPECT_FALSE(model.has("llama.attention.sliding_window"));

  const Safetensors source = value_of(Safetensors::open(fixtures / "models/llama"));
  EXPECT_EQ(model.tensors().size(), source.tensors().size());
  const StoredTensor* query = value_of(model.tensor("blk.1.attn_q.weight", std::vector<int64_t>{64, 64}));
  const StoredTensor* original = source.find("model.layers.1.self_attn.q_proj.weight");
  // Head 2, of 16 rows: rows 0, 1, 2, 3 are the source's 0, 8, 1, 9.
  for (const auto& [row, from] : {std::pair{0, 0}, {1, 8}, {2, 1}, {3, 9}, {15, 15}}) {
    EXPECT_EQ(values_of(*query, 2 * 16 + row), values_of(*original, 2 * 16 + from));
  }
  const StoredTensor* key = value_of(model.tensor("blk.1.attn_k.weight", std::vector<int64_t>{32, 64}));
  EXPECT_EQ(values_of(*key, 16 + 1), values_of(*source.find("model.layers.1.self_attn.k_proj.weight"), 16 + 8));
  EXPECT_EQ(values_of(*value_of(model.tensor("blk.1.attn_v.weight")), 7),
            values_of(*source.find("model.layers.1.self_attn.v_proj.weight"), 7));
}

TEST(HuggingFace, RotaryScalings) {
  const ModelFile yarn = value_of(open_model(fixtures / "models/llama_yarn"));
  EXPECT_EQ(value_of(yarn.text("llama.rope.scaling.type")), "yarn");
  EXPECT_EQ(value_of(yarn.real("llama.rope.scaling.factor")), 4.0);
  EXPECT_EQ(value_of(yarn.integer("llama.rope.scaling.original_context_length")), 256);
  EXPECT_FALSE(yarn.has("llama.rope.scaling.attn_factor"));
  const ModelFile linear = value_of(open_model(fixtures / "models/llama_linear"));
  EXPECT_EQ(value_of(linear.text("llama.rope.scaling.type")), "linear");

  const ModelFile llama3 = value_of(open_model(fixtures / "models/llama3"));
  EXPECT_EQ(value_of(llama3.real("llama.rope.freq_base")), 500000.0);
  const std::vector<float> factors = values_of(*value_of(llama3.tensor("rope_freqs.weight", std::vector<int64_t>{8})));
  EXPECT_EQ(factors.front(), 1.0f);                                                            // wavelength 6.3, below 64 / 4
  EXPECT_EQ(factors.back(), 8.0f);                                                             // wavelength above 64
  EXPECT_NEAR(factors[1], 1 / ((1 - (64 / 32.40 - 1) / 3) / 8 + (64 / 32.40 - 1) / 3), 1e-2);  // between

  // Files from before transformers 5 have rope_theta and rope_scaling; the attention factor is written as
  // GGUF wants it.
  Folder old("llama_yarn");
  old.config(
      {{"rope_parameters", nullptr},
       {"rope_theta", 1234.5},
       {"rope_scaling",
        {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 256}, {"attention_factor", 2.0}, {"beta_fast", 16}}}});
  const ModelFile model = old.model();
  EXPECT_EQ(value_of(model.real("llama.rope.freq_base")), 1234.5);
  EXPECT_NEAR(value_of(model.real("llama.rope.scaling.attn_factor")), 2.0 / (0.1 * std::log(4.0) + 1.0), 1e-6);
  EXPECT_EQ(value_of(model.real("llama.rope.scaling.yarn_beta_fast")), 16.0);

  const auto refuse = [](const json& scaling, const std::string& part) {
    const Status status = Folder("llama").config({{"rope_parameters", nullptr}, {"rope_scaling", scaling}}).open();
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  };
  refuse({{"rope_type", "dynamic"}}, "config.json: rope scaling: type dynamic is not known; known are default, linear");
  refuse({{"rope_type", "linear"}}, "rope scaling: field factor is missing");
  refuse({{"rope_type", "linear"}, {"factor", -1}}, "factor is -1, expected above 0");
  refuse({{"rope_type", "yarn"}, {"factor", 2}, {"truncate", false}}, "yarn with truncate false is not known");
  refuse({{"rope_type", "llama3"}, {"high_freq_factor", 1}}, "make no sense");
  refuse({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}, "partial_rotary_factor 0.5 is not known");
}

TEST(HuggingFace, MistralQwenAndGemma) {
  const ModelFile mistral = value_of(open_model(fixtures / "models/mistral"));
  EXPECT_EQ(value_of(mistral.text("general.architecture")), "llama");
  EXPECT_EQ(value_of(mistral.integer("llama.attention.sliding_window")), 48);

  const ModelFile qwen2 = value_of(open_model(fixtures / "models/qwen2"));
  EXPECT_EQ(value_of(qwen2.tensor("blk.2.attn_q.bias"))->dtype, DType::f32);
  EXPECT_EQ(qwen2.find_tensor("output.weight"), nullptr);
  const Safetensors source = value_of(Safetensors::open(fixtures / "models/qwen2"));
  EXPECT_EQ(values_of(*value_of(qwen2.tensor("blk.0.attn_q.weight")), 1),
            values_of(*source.find("model.layers.0.self_attn.q_proj.weight"), 1));

  const ModelFile qwen3 = value_of(open_model(fixtures / "models/qwen3"));
  EXPECT_EQ(value_of(qwen3.tensor("blk.2.attn_k_norm.weight"))->shape, std::vector<int64_t>{32});

  const ModelFile gemma = value_of(open_model(fixtures / "models/gemma3"));
  EXPECT_EQ(value_of(gemma.integer("gemma3.attention.sliding_window")), 40);
  EXPECT_FALSE(gemma.has("gemma3.attention.sliding_window_pattern"));
  EXPECT_EQ(value_of(gemma.real("gemma3.rope.freq_base")), 1e6);
  EXPECT_EQ(value_of(gemma.real("gemma3.rope.freq_base_swa")), 1e4);
  const Safetensors norms = value_of(Safetensors::open(fixtures / "models/gemma3"));
  for (const auto& [ours, theirs] : {std::pair{"attn_norm", "input_layernorm"},
                                     {"post_attention_norm", "post_attention_layernorm"},
                                     {"ffn_norm", "pre_feedforward_layernorm"},
                                     {"post_ffw_norm", "post_feedforward_layernorm"},
                                     {"attn_q_norm", "self_attn.q_norm"}}) {
    const auto found = values_of(*value_of(gemma.tensor("blk.3." + std::string(ours) + ".weight")));
    const auto stored = values_of(*norms.find("model.layers.3." + std::string(theirs) + ".weight"));
    EXPECT_EQ(found[5], stored[5] + 1.0f) << ours;
  }
}

TEST(HuggingFace, WhatCannotBeRunIsRefusedByName) {
  const auto refuse = [](const char* model, const json& patch, Code code, const std::string& part) {
    expect_error(Folder(model).config(patch).open(), code, part);
  };
  const Code bad = Code::invalid_argument, unknown = Code::unsupported;
  refuse("llama", {{"architectures", {"MixtralForCausalLM"}}}, unknown,
         "config.json: architecture MixtralForCausalLM is not known; known are LlamaForCausalLM, "
         "MistralForCausalLM");
  refuse("llama", {{"architectures", nullptr}}, bad, "field architectures is not a list of names");
  refuse("llama", {{"hidden_size", nullptr}}, bad, "config.json: field hidden_size is missing");
  refuse("llama", {{"hidden_size", "64"}}, bad, "field hidden_size is a JSON string, expected an integer");
  refuse("llama", {{"hidden_size", 18446744073709551615ull}}, bad, "field hidden_size is above 2^63 - 1");
  refuse("llama", {{"num_hidden_layers", 1000000}}, bad, "field num_hidden_layers is 1000000, expected 1 to 4096");
  refuse("llama", {{"num_key_value_heads", 3}}, bad, "4 heads of size 16 with 3 key/value heads cannot be");
  refuse("llama", {{"hidden_act", "gelu"}}, unknown, "activation gelu is not known for LlamaForCausalLM, expected silu");
  refuse("llama", {{"vocab_size", 321}}, bad, "tensor model.embed_tokens.weight has shape [320, 64], config.json says [321, 64]");
  refuse("llama", {{"vocab_size", 300}}, bad, "has shape [320, 64], config.json says [300, 64]");
  refuse("llama", {{"num_hidden_layers", 2}}, unknown, "tensor model.layers.2.");
  refuse("llama", {{"num_hidden_layers", 4}}, Code::not_found, "tensor model.layers.3.input_layernorm.weight is absent");
  refuse("llama3", {{"tie_word_embeddings", false}}, Code::not_found, "tensor lm_head.weight is absent");
  refuse("llama", {{"architectures", {"Qwen2ForCausalLM"}}}, Code::not_found, "tensor model.layers.0.self_attn.q_proj.bias is absent");
  refuse("qwen2", {{"use_sliding_window", true}}, unknown, "use_sliding_window true is not known for qwen2");
  refuse("gemma3", {{"use_bidirectional_attention", true}}, unknown, "use_bidirectional_attention true is not known");
  refuse("gemma3", {{"final_logit_softcapping", 30.0}}, unknown, "soft-capped logits are not known");
  refuse("gemma3", {{"query_pre_attn_scalar", 64}}, unknown, "query_pre_attn_scalar 64 is not known, expected 32");
  refuse("gemma3", {{"layer_types", {"full_attention"}}}, bad, "field layer_types is not a list of 7 names");
  const std::string s = "sliding_attention", f = "full_attention";
  refuse("gemma3", {{"layer_types", {s, f, s, s, s, f, s}}}, unknown, "field layer_types has no regular period");
  refuse("gemma3", {{"layer_types", {f, f, f, f, f, f, f}}}, unknown, "a Gemma 3 model without windows is not known");
  const ModelFile model = Folder("gemma3").config({{"layer_types", {s, s, f, s, s, f, s}}}).model();
  EXPECT_EQ(value_of(model.integer("gemma3.attention.sliding_window_pattern")), 3);

  Folder torn("llama");
  spill(torn / "config.json", "{\"architectures\": [");
  expect_error(torn.open(), bad, "config.json: not valid JSON near byte");
  std::filesystem::remove(torn / "config.json");
  expect_error(torn.open(), Code::not_found, "config.json: cannot be opened");
  Folder bare("llama");
  std::filesystem::remove(bare / "tokenizer.json");
  expect_error(bare.open(), Code::not_found, "tokenizer.json: cannot be opened");
}

// --- tokenizers ---

TEST(HuggingFaceTokenizer, ByteLevel) {
  Folder folder("llama");
  folder.edit("tokenizer.json", [](json& tokenizer) {
    tokenizer["model"]["merges"] = json::array({"! \"", json::array({"#", "$"})});
    tokenizer["added_tokens"].push_back({{"id", 258}, {"content", "<tool>"}, {"special", false}});
    tokenizer["added_tokens"].push_back({{"id", 259}, {"content", "<|odd|>"}, {"special", false}});
    tokenizer["added_tokens"].push_back({{"id", 999}, {"content", "beyond"}, {"special", true}});
    tokenizer["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "<|begin|>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}}};
  });
  folder.edit("tokenizer_config.json", [](json& config) { config["chat_template"] = "{{ messages }}"; });
  folder.edit("generation_config.json", [](json& config) { config["eos_token_id"] = {257, 258, 259}; });
  const ModelFile model = folder.model();
  EXPECT_EQ(value_of(model.text("tokenizer.ggml.model")), "gpt2");
  EXPECT_EQ(value_of(model.text("tokenizer.ggml.pre")), "qwen2");
  const auto tokens = value_of(model.texts("tokenizer.ggml.tokens"));
  const auto types = value_of(model.integers("tokenizer.ggml.token_type"));
  ASSERT_EQ(tokens.size(), 320u);
  ASSERT_EQ(types.size(), 320u);
  EXPECT_EQ(tokens[0], "!");
  EXPECT_EQ(types[0], 1);
  EXPECT_EQ(tokens[256], "<|begin|>");
  EXPECT_EQ(types[256], 3);
  EXPECT_EQ(types[258], 4);
  EXPECT_EQ(types[259], 3) << "written like a control token";
  EXPECT_EQ(tokens[260], "[PAD260]");
  EXPECT_EQ(types[260], 5);
  EXPECT_EQ(value_of(model.texts("tokenizer.ggml.merges")), (std::vector<std::string_view>{"! \"", "# $"}));
  EXPECT_EQ(value_of(model.integer("tokenizer.ggml.bos_token_id")), 256);
  EXPECT_EQ(value_of(model.integer("tokenizer.ggml.eos_token_id")), 257);
  EXPECT_EQ(value_of(model.integer("tokenizer.ggml.eot_token_id")), 258);
  EXPECT_EQ(value_of(model.integer("tokenizer.ggml.eom_token_id")), 259);
  EXPECT_TRUE(value_of(model.boolean("tokenizer.ggml.add_bos_token")));
  EXPECT_FALSE(value_of(model.boolean("tokenizer.ggml.add_eos_token")));
  EXPECT_EQ(value_of(model.text("tokenizer.chat_template")), "{{ messages }}");
}

TEST(HuggingFaceTokenizer, PreTokenizersAreRecognisedByTheirDefinition) {
  const auto pre = [](const json& definition) {
    Folder folder("llama");
    folder.edit("tokenizer.json", [&](json& tokenizer) { tokenizer["pre_tokenizer"] = definition; });
    const auto model = open_huggingface((folder / "x").parent_path());
    return model.ok() ? std::string(value_of(model->text("tokenizer.ggml.pre"))) : model.status().message();
  };
  const json gpt2 = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const auto sequence = [](const json& first, const json& second) {
    return json{{"type", "Sequence"}, {"pretokenizers", {first, second}}};
  };
  const auto split = [](const std::string& pattern) {
    return json{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  };
  EXPECT_EQ(pre(gpt2), "gpt-2");
  EXPECT_EQ(pre(sequence(digits, gpt2)), "smollm");
  EXPECT_EQ(pre(sequence(split("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
                               "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"),
                         bytes)),
            "llama-bpe");
  EXPECT_NE(pre(sequence(split("\\w+"), bytes)).find("tokenizer.json: the pre-tokenizer {"), std::string::npos);
  EXPECT_NE(pre(bytes).find("is not known; known are those of gpt2, smollm, llama-bpe and qwen2"), std::string::npos);
  EXPECT_NE(pre(nullptr).find("the pre-tokenizer null is not known"), std::string::npos);
  EXPECT_NE(pre(sequence(digits, bytes)).find("is not known"), std::string::npos);
}

// A SentencePiece-like tokenizer as Llama 2 and Gemma have it.
json sentencepiece() {
  json vocabulary = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}, {"<0x0A>", 3}, {"a", 4}, {"b", 5}, {"\u2581", 6}, {"ab", 7}, {"\u2581ab", 8}};
  return {
      {"added_tokens",
       {{{"id", 0}, {"content", "<unk>"}, {"special", true}},
        {{"id", 1}, {"content", "<s>"}, {"special", true}},
        {{"id", 2}, {"content", "</s>"}, {"special", true}},
        {{"id", 9}, {"content", "\u2581\u2581"}, {"special", false}}}},
      {"normalizer",
       {{"type", "Sequence"},
        {"normalizers",
         {{{"type", "Prepend"}, {"prepend", "\u2581"}}, {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}}},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"model",
       {{"type", "BPE"},
        {"byte_fallback", true},
        {"unk_token", "<unk>"},
        {"vocab", vocabulary},
        {"merges", {"\u2581 a", "a b", "\u2581 ab", "\u2581a b"}}}}};
}

TEST(HuggingFaceTokenizer, SentencePieceLike) {
  Folder folder("llama");
  folder.edit("tokenizer.json", [](json& tokenizer) { tokenizer = sentencepiece(); });
  folder.edit("tokenizer_config.json", [](json& config) {
    config = {{"bos_token", "<s>"},
              {"eos_token", {{"content", "</s>"}}},
              {"unk_token", "<unk>"},
              {"add_bos_token", true},
              {"chat_template", {{{"name", "default"}, {"template", "D"}}, {{"name", "tool_use"}, {"template", "T"}}}}};
  });
  const ModelFile model = folder.model();
  EXPECT_EQ(value_of(model.text("tokenizer.ggml.model")), "llama");
  EXPECT_EQ(value_of(model.text("tokenizer.ggml.pre")), "default");
  const auto types = value_of(model.integers("tokenizer.ggml.token_type"));
  EXPECT_EQ(std::vector<int64_t>(types.begin(), types.begin() + 11), (std::vector<int64_t>{2, 3, 3, 6, 1, 1, 1, 1, 1, 4, 5}));
  EXPECT_EQ(value_of(model.texts("tokenizer.ggml.tokens"))[9], "  ") << "user-defined tokens are matched in plain text";
  const auto scores = value_of(model.reals("tokenizer.ggml.scores"));
  EXPECT_EQ(scores[7], -1.0f);
  EXPECT_EQ(scores[8], -2.0f) << "the better of the two merges that make it";
  EXPECT_LT(scores[4], -1000.0f);
  EXPECT_FALSE(model.has("tokenizer.ggml.merges"));
  EXPECT_TRUE(value_of(model.boolean("tokenizer.ggml.add_space_prefix")));
  EXPECT_TRUE(value_of(model.boolean("tokenizer.ggml.add_bos_token")));
  EXPECT_EQ(value_of(model.integer("tokenizer.ggml.unknown_token_id")), 0);
  EXPECT_EQ(value_of(model.text("tokenizer.chat_template")), "D");
  EXPECT_EQ(value_of(model.text("tokenizer.chat_template.tool_use")), "T");

  // Gemma: no space in front, a split at spaces that are gone by then; a template in a file of its own.
  folder.edit("tokenizer.json", [](json& tokenizer) {
    tokenizer["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
    tokenizer["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}};
  });
  spill(folder / "chat_template.jinja", "F");
  const ModelFile gemma = folder.model();
  EXPECT_FALSE(value_of(gemma.boolean("tokenizer.ggml.add_space_prefix")));
  EXPECT_EQ(value_of(gemma.text("tokenizer.chat_template")), "F");
  // Newer Llama 2 files: Metaspace instead of normalizers.
  folder.edit("tokenizer.json", [](json& tokenizer) {
    tokenizer["normalizer"] = nullptr;
    tokenizer["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}, {"split", false}};
  });
  EXPECT_TRUE(value_of(folder.model().boolean("tokenizer.ggml.add_space_prefix")));
}

TEST(HuggingFaceTokenizer, DamagedAndUnknownFiles) {
  const auto refuse = [](const std::string& pointer, const json& value, const std::string& part, bool byte_fallback = false) {
    Folder folder("llama");
    folder.edit("tokenizer.json", [&](json& tokenizer) {
      if (byte_fallback) tokenizer = sentencepiece();
      tokenizer[json::json_pointer(pointer)] = value;
    });
    const Status status = folder.open();
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  };
  refuse("", json::array(), "tokenizer.json: expected an object, found array");
  refuse("/model", nullptr, "tokenizer.json: field model is missing");
  refuse("/model/type", "Unigram", "tokenizer.json: model: type Unigram is not known, expected BPE");
  refuse("/model/vocab/!", 320, "token \"!\" has the id 320, expected below the 320 rows of the embedding");
  refuse("/model/vocab/!", -1, "token \"!\" has the id -1");
  refuse("/model/vocab/!", 5, "share the id 5");
  refuse("/model/merges", nullptr, "field merges is not a list");
  refuse("/model/merges", {"ab"}, "merge 0 is \"ab\", expected two tokens");
  refuse("/model/merges", {{"a", "b", "c"}}, "expected two tokens");
  refuse("/added_tokens", {1}, "added_tokens: expected an object, found number");
  refuse("/added_tokens", {{{"id", -1}, {"content", "x"}}}, "token \"x\" has the id -1");
  refuse("/normalizer", {{"type", "Lowercase"}}, "normalizer {\"type\":\"Lowercase\"} is not known for byte-level BPE");
  refuse("/normalizer", {{"type", "Lowercase"}}, "is not known for BPE with byte fallback", true);
  refuse("/pre_tokenizer", {{"type", "Whitespace"}}, "pre-tokenizer {\"type\":\"Whitespace\"} is not known for BPE with byte fallback",
         true);
}

}  // namespace
}  // namespace onset
