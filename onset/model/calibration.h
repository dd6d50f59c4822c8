// What linear layers' inputs look like, measured by running a few tokens: so that fast arithmetic loses less.
//
// Some channels of an input are far from zero or far larger than others, and 8 bits for a row then leave little for the rest. Subtracting
// each channel's mean and dividing by a factor moves both into the weights, where they cost nothing: SmoothQuant (arXiv:2211.10438,
// equation 4, alpha = 1/2) on root mean squares, with the mean taken out first.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "onset/base/status.h"
#include "onset/base/thread_pool.h"
#include "onset/compute/linear.h"
#include "onset/formats/model_file.h"
#include "onset/model/config.h"
#include "onset/model/layers.h"
#include "onset/model/packed_weights.h"

namespace onset {

// Changes whenever the same model and tokens would give other numbers.
inline constexpr int calibration_version = 3;

// Tokens that stand for ordinary use: a text of prose, talk, numbers and code (calibration_text.inc) in the model's own vocabulary, at most
// `most` of them. For a file without a tokenizer that this program knows: drawn evenly from the vocabulary by a fixed generator.
std::vector<int32_t> calibration_tokens(const ModelFile& file, int32_t vocabulary, int32_t most);

// Runs `tokens` through the model in reference precision, one layer's weights in memory at a time, and derives each matrix's conditioning
// (one for each of `built.plans`). The result depends on the model and the tokens alone, not on threads or instruction set.
Result<std::vector<Conditioning>> calibrate(const ModelFile& file, const ModelConfig& config, const BuiltLayers& built,
                                            std::span<const int32_t> tokens, Isa isa, ThreadPool& pool,
                                            const std::function<void(double)>& progress);

}  // namespace onset
