// Bodies of all endpoints: whatever comes, parsing ends, and refuses with a sentence that names a field or says what is wrong.
#include "onset/serve/requests.h"

#include <cstdlib>

using namespace onset::serve;

template <typename Request>
void check(const Checked<Request>& parsed) {
  if (parsed.ok()) return;
  const Json error = Json::parse(parsed.error().body(), nullptr, false);
  if (parsed.error().message.empty() || parsed.error().status != 400 || !error.is_object()) std::abort();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Checked<Json> body = parse_body({reinterpret_cast<const char*>(data), size});
  check(body);
  if (!body.ok()) return 0;
  check(parse_completion(*body));
  check(parse_chat(*body));
  check(parse_embedding(*body));
  check(parse_tokenize(*body));
  check(parse_detokenize(*body));
  return 0;
}
