// What a model can be loaded with in place of what its file says: another scaling of the rotary embedding, for texts longer than it was
// trained for, and a pattern of blocks in most of its layers.
#pragma once

#include <string>
#include <string_view>

#include "onset/model/config.h"

namespace onset {

// `rope_scaling`, for texts FACTOR times as long as the model's context, which grows accordingly:
//   linear:FACTOR               positions are divided by it (arXiv:2306.15595)
//   ntk:FACTOR                  the base is multiplied by FACTOR ^ (d / (d - 2)): fast pairs stay, the slowest one is divided by FACTOR
//   yarn:FACTOR[:FAST:SLOW]     pairs with more than FAST (32) turns in the old context stay, those with fewer than SLOW (1) are divided,
//                               those between blended; scores grow (arXiv:2309.00071)
//   llama3:FACTOR[:LOW:HIGH]    pairs with more than HIGH (4) turns stay, those with fewer than LOW (1) are divided, those between blended
// Ropes of layers with windows are left alone where other layers have none. `layers`: longgen:FULL... as attend/block_sparse.h says it,
// with one pattern for all KV heads; or lserve[:TABLE]... as attend/lserve_options.h says it (what a cache keeps): KV heads that stream
// keep their first and last tokens alone. Errors: invalid_argument naming what is wrong, unsupported for a model that has a scaling or
// windows of its own.
Status apply_load_options(std::string_view rope_scaling, std::string_view layers, ModelConfig& config);

// What caches of anything that was computed must tell apart: empty without such options.
std::string load_options_identity(std::string_view rope_scaling, std::string_view layers);

}  // namespace onset
