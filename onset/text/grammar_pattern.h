// Regular expressions of JSON schemas ("pattern", ECMA-262) as automata over characters.
#pragma once

#include <string_view>

#include "onset/base/status.h"
#include "onset/text/grammar_builder.h"

namespace onset {

// The texts in which the pattern matches somewhere. Supported: characters, ".", classes, \d \w \s \D \W \S,
// groups, "|", the quantifiers ? * + {n} {n,} {n,m} (lazy ones match the same texts), "^" at the front and
// "$" at the end of an alternative of the whole pattern, escapes \t \n \v \f \r \0 \xHH \uHHHH \u{H...} and
// of punctuation. \d, \w and \s mean their ASCII members; their opposites leave out what any engine counts as
// digits, letters or space. Errors: unsupported for anything else that is a pattern, invalid_argument for
// what is none, resource_exhausted beyond `limit` states.
Result<Automaton> compile_pattern(std::string_view pattern, size_t limit);

}  // namespace onset
