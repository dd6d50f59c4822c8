#include "onset/text/grammar_characters.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <tuple>

#include "onset/text/unicode.h"

namespace onset {
namespace {

using Place = AutomatonDraft::Place;
using Digits = std::vector<uint32_t>;

// Characters that JSON writes with a letter behind a backslash.
constexpr std::array<std::pair<char32_t, char>, 8> short_escapes{
    {{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}}};

// Adds characters of a JSON string to a draft. Places in front of a target are made once for each target.
class CharacterPaths {
 public:
  CharacterPaths(AutomatonDraft& draft, CountMark mark) : draft_(draft), mark_(mark) {}

  void add(Place from, char32_t first, char32_t last, Place to, bool escapes_of_ascii = true) {
    for (const auto& [low, high] : {std::pair{0x20u, 0x21u}, {0x23u, 0x5bu}, {0x5du, 0x7fu}}) {
      if (first <= high && low <= last) {
        draft_.edge(from, std::max<uint32_t>(first, low), std::min<uint32_t>(last, high), to, mark_);
      }
    }
    add_utf8(from, first, last, to);
    if (escapes_of_ascii) {
      add_short_escapes(from, first, last, to);
    } else {
      first = std::max<char32_t>(first, 0x80);
    }
    if (first <= last && first <= 0xffff) {
      add_digits(Spelling::hex, hex_start(from), hex(first), hex(std::min<char32_t>(last, 0xffff)), 0, to);
    }
    if (last > 0xffff) add_surrogates(from, std::max<char32_t>(first, 0x10000), last, to);
  }

  // Only a backslash and a letter, for those that cannot stand as they are.
  void add_short_escapes(Place from, char32_t first, char32_t last, Place to) {
    for (const auto& [character, letter] : short_escapes) {
      if (character < first || character > last) continue;
      draft_.edge(escape(from), static_cast<uint8_t>(letter), static_cast<uint8_t>(letter), to);
    }
  }

 private:
  enum class Spelling : uint8_t { utf8, hex };

  static Digits hex(char32_t value) { return {value >> 12 & 15, value >> 8 & 15, value >> 4 & 15, value & 15}; }

  Place escape(Place from) {
    const auto [found, added] = escapes_.try_emplace(from, 0);
    if (added) {
      found->second = draft_.add();
      draft_.edge(from, '\\', '\\', found->second, mark_);
    }
    return found->second;
  }

  Place hex_start(Place from) {
    const auto [found, added] = hex_starts_.try_emplace(from, 0);
    if (added) {
      found->second = draft_.add();
      draft_.edge(escape(from), 'u', 'u', found->second);
    }
    return found->second;
  }

  void emit(Spelling spelling, Place from, uint32_t first, uint32_t last, Place to, CountMark mark) {
    if (spelling == Spelling::utf8) return draft_.edge(from, first, last, to, mark);
    if (first < 10) draft_.edge(from, '0' + first, '0' + std::min(last, 9u), to, mark);
    if (last < 10) return;
    const uint32_t begin = std::max(first, 10u) - 10, end = last - 10;
    draft_.edge(from, 'a' + begin, 'a' + end, to, mark);
    draft_.edge(from, 'A' + begin, 'A' + end, to, mark);
  }

  static uint32_t lowest(Spelling spelling) { return spelling == Spelling::utf8 ? 0x80 : 0; }
  static uint32_t highest(Spelling spelling) { return spelling == Spelling::utf8 ? 0xbf : 15; }

  // The place in front of `digits` digits of any value and `to`.
  Place tail(Spelling spelling, size_t digits, Place to) {
    if (digits == 0) return to;
    const auto [found, added] = tails_.try_emplace({spelling, digits, to}, 0);
    if (!added) return found->second;
    const Place place = found->second = draft_.add();
    emit(spelling, place, lowest(spelling), highest(spelling), tail(spelling, digits - 1, to), CountMark::none);
    return place;
  }

  // The numbers between two of equally many digits, from digit `at` on.
  void add_digits(Spelling spelling, Place from, Digits low, Digits high, size_t at, Place to) {
    const size_t rest = low.size() - at - 1;
    const CountMark mark = spelling == Spelling::utf8 && at == 0 ? mark_ : CountMark::none;
    const auto tail_is = [&](const Digits& digits, uint32_t value) {
      return std::all_of(digits.begin() + static_cast<std::ptrdiff_t>(at) + 1, digits.end(),
                         [value](uint32_t digit) { return digit == value; });
    };
    const auto branch = [&](uint32_t digit, Digits from_digits, Digits to_digits) {
      const Place next = draft_.add();
      emit(spelling, from, digit, digit, next, mark);
      add_digits(spelling, next, std::move(from_digits), std::move(to_digits), at + 1, to);
    };
    if (rest > 0 && low[at] == high[at] && !(tail_is(low, lowest(spelling)) && tail_is(high, highest(spelling)))) {
      return branch(low[at], low, high);
    }
    uint32_t first = low[at], last = high[at];
    if (rest > 0 && !tail_is(low, lowest(spelling))) {
      branch(first++, low, Digits(low.size(), highest(spelling)));
    }
    if (rest > 0 && !tail_is(high, highest(spelling))) {
      branch(last--, Digits(high.size(), lowest(spelling)), high);
    }
    if (first <= last) emit(spelling, from, first, last, tail(spelling, rest, to), mark);
  }

  void add_utf8(Place from, char32_t first, char32_t last, Place to) {
    const auto bytes = [](char32_t character) {
      std::string text;
      append_utf8(character, text);
      Digits digits;
      for (const char byte : text) digits.push_back(static_cast<uint8_t>(byte));
      return digits;
    };
    for (const auto& [low, high] : {std::pair{0x80u, 0x7ffu}, {0x800u, 0xffffu}, {0x10000u, 0x10ffffu}}) {
      if (first > high || last < low) continue;
      add_digits(Spelling::utf8, from, bytes(std::max<char32_t>(first, low)), bytes(std::min<char32_t>(last, high)), 0, to);
    }
  }

  // Two escapes, \ud800 to \udbff and \udc00 to \udfff, ten bits each.
  void add_surrogates(Place from, char32_t first, char32_t last, Place to) {
    const auto add_pairs = [&](char32_t high_first, char32_t high_last, char32_t low_first, char32_t low_last) {
      const Place middle = draft_.add();
      add_digits(Spelling::hex, hex_start(from), hex(0xd800 + high_first), hex(0xd800 + high_last), 0, middle);
      add_digits(Spelling::hex, draft_.literal(middle, "\\u"), hex(0xdc00 + low_first), hex(0xdc00 + low_last), 0, to);
    };
    char32_t high = (first - 0x10000) >> 10, low = (first - 0x10000) & 0x3ff;
    const char32_t high_end = (last - 0x10000) >> 10, low_end = (last - 0x10000) & 0x3ff;
    if (high == high_end) return add_pairs(high, high, low, low_end);
    if (low > 0) add_pairs(high, high, low, 0x3ff), ++high;
    const char32_t whole_end = low_end == 0x3ff ? high_end + 1 : high_end;
    if (high < whole_end) add_pairs(high, whole_end - 1, 0, 0x3ff);
    if (low_end < 0x3ff) add_pairs(high_end, high_end, 0, low_end);
  }

  AutomatonDraft& draft_;
  CountMark mark_;
  std::map<Place, Place> escapes_, hex_starts_;
  std::map<std::tuple<Spelling, size_t, Place>, Place> tails_;
};

}  // namespace

const CharacterSet& all_characters() {
  static const CharacterSet all{{0, 0xd7ff}, {0xe000, 0x10ffff}};
  return all;
}

CharacterSet character_set(CharacterSet ranges) {
  std::sort(ranges.begin(), ranges.end());
  CharacterSet joined;
  for (const auto& [first, last] : ranges) {
    if (!joined.empty() && first <= joined.back().second + 1) {
      joined.back().second = std::max(joined.back().second, last);
    } else {
      joined.emplace_back(first, last);
    }
  }
  return without(joined, {{0xd800, 0xdfff}});
}

CharacterSet without(const CharacterSet& set, const CharacterSet& taken) {
  CharacterSet left;
  size_t next = 0;
  for (auto [first, last] : set) {
    while (next < taken.size() && taken[next].second < first) ++next;
    bool open = true;
    for (size_t i = next; open && i < taken.size() && taken[i].first <= last; ++i) {
      if (first < taken[i].first) left.emplace_back(first, taken[i].first - 1);
      open = taken[i].second < last;
      first = taken[i].second + 1;
    }
    if (open) left.emplace_back(first, last);
  }
  return left;
}

Automaton any_text() {
  Automaton automaton;
  Automaton::State state;
  for (const auto& [first, last] : all_characters()) state.edges.push_back({first, last, CountMark::none, 0});
  state.final = true;
  automaton.states.push_back(std::move(state));
  return automaton;
}

Place add_json_string(AutomatonDraft& draft, Place from, const Automaton& characters, bool counted) {
  std::vector<Place> places;
  for (size_t i = 0; i < characters.states.size(); ++i) places.push_back(draft.add());
  const Place end = draft.add();
  draft.edge(from, '"', '"', places[0]);
  CharacterPaths paths(draft, counted ? CountMark::adds : CountMark::none);
  for (size_t i = 0; i < characters.states.size(); ++i) {
    for (const AutomatonDraft::Edge& edge : characters.states[i].edges) {
      paths.add(places[i], edge.first, edge.last, places[edge.to]);
    }
    if (characters.states[i].final) {
      draft.edge(places[i], '"', '"', end, counted ? CountMark::closes : CountMark::none);
    }
  }
  return end;
}

Place add_json_text(AutomatonDraft& draft, Place from, std::string_view text) {
  CharacterPaths paths(draft, CountMark::none);
  from = draft.literal(from, "\"");
  while (!text.empty()) {
    const char32_t character = decode_utf8(text);
    const Place to = draft.add();
    const bool control = character < 0x20;
    paths.add(from, character, character, to, /*escapes_of_ascii=*/control);
    if (character == '"' || character == '\\') paths.add_short_escapes(from, character, character, to);
    from = to;
    text.remove_prefix(next_utf8_unit(text).length);
  }
  return draft.literal(from, "\"");
}

}  // namespace onset
