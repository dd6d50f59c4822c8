// The formats of JSON schema strings as patterns (RFC 3339, 5321, 1123, 2673, 4291, 4122; ISO 8601
// durations), in their usual spellings: 29 February is left out, as whether it exists depends on the year.
#include <array>
#include <string_view>
#include <utility>

#include "onset/text/json_schema_compiler.h"

namespace onset {
namespace {

#define ONSET_DATE                                                                                           \
  "[0-9]{3}[1-9]-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[" \
  "0-9]|2[0-8]))"
#define ONSET_TIME "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define ONSET_LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define ONSET_BYTE "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define ONSET_H16 "[0-9A-Fa-f]{1,4}"

constexpr std::array<std::pair<std::string_view, const char*>, 9> formats{{
    {"date", "^" ONSET_DATE "$"},
    {"time", "^" ONSET_TIME "$"},
    {"date-time", "^" ONSET_DATE "T" ONSET_TIME "$"},
    {"duration",
     "^P([0-9]{1,9}W|([0-9]{1,9}Y([0-9]{1,9}M([0-9]{1,9}D)?)?|[0-9]{1,9}M([0-9]{1,9}D)?|[0-9]{1,9}D)"
     "(T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))?"
     "|T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))$"},
    {"email", "^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@" ONSET_LABEL "(\\." ONSET_LABEL ")+$"},
    {"hostname", "^" ONSET_LABEL "(\\." ONSET_LABEL "){0,3}$"},
    {"ipv4", "^(" ONSET_BYTE "\\.){3}" ONSET_BYTE "$"},
    {"ipv6", "^((" ONSET_H16 ":){7}(" ONSET_H16 "|:)"
             "|(" ONSET_H16 ":){1,6}:" ONSET_H16 "|(" ONSET_H16 ":){1,5}(:" ONSET_H16 "){1,2}"
             "|(" ONSET_H16 ":){1,4}(:" ONSET_H16 "){1,3}"
             "|(" ONSET_H16 ":){1,3}(:" ONSET_H16 "){1,4}"
             "|(" ONSET_H16 ":){1,2}(:" ONSET_H16 "){1,5}"
             "|" ONSET_H16 ":(:" ONSET_H16 "){1,6}"
             "|:((:" ONSET_H16 "){1,7}|:))$"},
    {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
}};

}  // namespace

const char* format_pattern(std::string_view format) {
  for (const auto& [name, pattern] : formats) {
    if (name == format) return pattern;
  }
  return nullptr;
}

}  // namespace onset
