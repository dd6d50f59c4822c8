// Child processes: a command with its arguments (no shell), its output read while it runs.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "onset/base/status.h"

namespace onset {

struct ChildResult {
  int status = 0;      // exit status; 127: there is no such program, 128 + N: ended by signal N
  std::string output;  // standard output and standard error together, its last 64 KiB
};

// Runs `arguments[0]`, found in $PATH, in `folder` with standard input empty and some variables added to the environment. Asks
// `go_on` (if any) five times a second; false ends the child. Errors: failed if no process can be made, cancelled.
Result<ChildResult> run_child(const std::vector<std::string>& arguments, const std::filesystem::path& folder,
                              const std::vector<std::pair<std::string, std::string>>& environment, const std::function<bool()>& go_on);

}  // namespace onset
