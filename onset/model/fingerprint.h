// What tells one model's keys and values from another's.
#pragma once

#include <string>

#include "onset/model/model.h"

namespace onset {

// Of all metadata and tensors of the model's file, what it was loaded with in their place, and the arithmetic: 32 hexadecimal digits (XXH3)
// and the precision's name. Reads the whole file: about a tenth of a second for a gigabyte that is in memory.
std::string model_fingerprint(const Model& model);

}  // namespace onset
