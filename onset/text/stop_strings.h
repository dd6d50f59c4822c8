// Stop strings in a stream: text goes out at once, except an end that may be the beginning of a stop string.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"

namespace onset {

// Watches a stream for the first stop string to be completed (of two completed by the same byte, the longer).
// What it finds does not depend on how the text is cut into pieces.
class StopStrings {
 public:
  // Errors: invalid_argument for an empty stop string.
  static Result<StopStrings> create(std::vector<std::string> stops);

  // The text that may go out now: everything before a stop string, or all but the longest end that begins
  // one. After a stop nothing goes out any more. With valid UTF-8 on both sides no character is cut.
  std::string push(std::string_view text);
  // The stream ended: what was held back.
  std::string finish();
  // Index of the stop string that was found.
  std::optional<size_t> stopped() const { return stopped_; }

 private:
  struct Stop {
    std::string text;
    std::vector<size_t> fallback;  // for each length: the longest shorter beginning that is also its end
                                   // (Knuth, Morris and Pratt)
    size_t matched = 0;            // bytes of `text` that the stream ends with
  };
  std::vector<Stop> stops_;
  std::string held_;
  std::optional<size_t> stopped_;
};

}  // namespace onset
