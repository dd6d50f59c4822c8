// tools/models.json as it was when the program was built (table.cc.in).
#pragma once

namespace onset {

extern const char* const named_models_json;

}  // namespace onset
