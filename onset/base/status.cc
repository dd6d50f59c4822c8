#include "onset/base/status.h"

namespace onset {

const char* code_name(Code code) {
  switch (code) {
    case Code::ok:
      return "ok";
    case Code::invalid_argument:
      return "invalid argument";
    case Code::not_found:
      return "not found";
    case Code::unsupported:
      return "unsupported";
    case Code::resource_exhausted:
      return "resource exhausted";
    case Code::failed:
      return "failed";
    case Code::cancelled:
      return "cancelled";
  }
  return "unknown";
}

}  // namespace onset
