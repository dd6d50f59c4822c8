// Sets of characters, and texts of characters as the JSON strings that stand for them.
#pragma once

#include <utility>
#include <vector>

#include "onset/text/grammar_builder.h"

namespace onset {

// Code points as ranges, ascending, apart from each other, without surrogates.
using CharacterSet = std::vector<std::pair<char32_t, char32_t>>;

const CharacterSet& all_characters();
// Ranges in any order, overlapping or not, made a set.
CharacterSet character_set(CharacterSet ranges);
CharacterSet without(const CharacterSet& set, const CharacterSet& taken);

// Any text: the automaton of one state.
Automaton any_text();

// Adds the JSON strings, quotes included, whose characters an automaton accepts: characters as UTF-8 or as
// any escape that JSON has for them. `counted`: each character adds to the rule's count and the closing quote
// asks for the least. Returns the place after the closing quote.
AutomatonDraft::Place add_json_string(AutomatonDraft& draft, AutomatonDraft::Place from, const Automaton& characters, bool counted);

// Adds one JSON string, characters as UTF-8 (others than ASCII also as \u escapes), `text` being well-formed
// UTF-8.
AutomatonDraft::Place add_json_text(AutomatonDraft& draft, AutomatonDraft::Place from, std::string_view text);

}  // namespace onset
