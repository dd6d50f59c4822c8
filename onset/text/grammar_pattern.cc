#include "onset/text/grammar_pattern.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "onset/text/grammar_characters.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

using Place = AutomatonDraft::Place;

constexpr int deepest = 64;
constexpr uint32_t unbounded = UINT32_MAX;
constexpr uint32_t most_repeats = 1 << 16;

// A parsed expression: a set of characters, parts in a row, or alternatives; repeated.
struct Expression {
  enum class Kind : uint8_t { set, sequence, alternatives };
  Kind kind = Kind::sequence;
  CharacterSet set = {};
  std::vector<Expression> parts = {};
  uint32_t least = 1, most = 1;
};

// An alternative of the whole pattern, and whether it reaches to the ends of the text.
struct Alternative {
  Expression expression;
  bool at_front = false, at_end = false;
};

CharacterSet digits() {
  return {{'0', '9'}};
}
CharacterSet word_characters() {
  return {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
}
CharacterSet spaces() {
  return {{'\t', '\r'}, {' ', ' '}};
}

// Characters beyond \d, \w or \s as ECMA-262 has them that some engine counts among them (Python's are
// Unicode's).
CharacterSet disputed(char letter) {
  CharacterSet ranges;
  for (const auto& [first, last] : without(all_characters(), {{0, 0x7f}})) {
    for (char32_t character = first; character <= last; ++character) {
      const auto category = U_MASK(u_charType(static_cast<UChar32>(character)));
      const bool digit = (category & U_GC_ND_MASK) != 0;
      const bool word = is_word_character(character) || (category & (U_GC_L_MASK | U_GC_N_MASK)) != 0;
      if (letter == 'd' ? digit : letter == 'w' ? word : is_space(character)) ranges.emplace_back(character, character);
    }
  }
  if (letter == 's') ranges.insert(ranges.end(), {{0x1c, 0x1f}, {0x85, 0x85}, {0xfeff, 0xfeff}});
  return character_set(std::move(ranges));
}

CharacterSet named(char letter) {
  return letter == 'd' ? digits() : letter == 'w' ? word_characters() : spaces();
}

CharacterSet both(CharacterSet a, const CharacterSet& b) {
  a.insert(a.end(), b.begin(), b.end());
  return character_set(std::move(a));
}

// What no engine counts among \d, \w or \s.
const CharacterSet& opposite(char letter) {
  static const CharacterSet digit = without(all_characters(), both(named('d'), disputed('d')));
  static const CharacterSet word = without(all_characters(), both(named('w'), disputed('w')));
  static const CharacterSet space = without(all_characters(), both(named('s'), disputed('s')));
  return letter == 'd' ? digit : letter == 'w' ? word : space;
}

class Parser {
 public:
  explicit Parser(std::string_view pattern) : text_(pattern) {}

  Result<std::vector<Alternative>> parse() {
    if (well_formed_prefix(text_) != text_.size()) return fail(Code::invalid_argument, "is not UTF-8");
    std::vector<Alternative> alternatives;
    do {
      Alternative alternative;
      while (take('^')) alternative.at_front = true;
      ONSET_ASSIGN(alternative.expression, sequence(0));
      while (take('$')) alternative.at_end = true;
      alternatives.push_back(std::move(alternative));
    } while (take('|'));
    if (text_.empty()) return alternatives;
    if (text_[0] == ')') return fail(Code::invalid_argument, "has a \")\" without \"(\"");
    return fail(Code::unsupported, "has \"$\" elsewhere than at the end");
  }

 private:
  Status fail(Code code, std::string_view what) const { return error(code, "the pattern {}", what); }
  bool take(std::string_view expected) {
    if (!text_.starts_with(expected)) return false;
    text_.remove_prefix(expected.size());
    return true;
  }
  bool take(char expected) { return take(std::string_view(&expected, 1)); }
  char32_t take_character() {
    const char32_t character = decode_utf8(text_);
    text_.remove_prefix(next_utf8_unit(text_).length);
    return character;
  }

  Result<Expression> alternatives(int depth) {
    if (depth > deepest) return fail(Code::resource_exhausted, "has groups nested too deep");
    Expression expression{.kind = Expression::Kind::alternatives};
    do {
      ONSET_ASSIGN(Expression part, sequence(depth));
      expression.parts.push_back(std::move(part));
    } while (take('|'));
    return expression;
  }

  Result<Expression> sequence(int depth) {
    Expression expression;
    while (!text_.empty() && text_[0] != '|' && text_[0] != ')' && text_[0] != '$') {
      ONSET_ASSIGN(Expression part, atom(depth));
      ONSET_TRY(quantify(part));
      expression.parts.push_back(std::move(part));
    }
    if (depth > 0 && text_.starts_with('$')) return fail(Code::unsupported, "has \"$\" inside a group");
    return expression;
  }

  Result<Expression> atom(int depth) {
    if (take('(')) return group(depth);
    if (take('[')) return set_of(character_class());
    if (take('.')) return set_of(without(all_characters(), {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}));
    if (take('\\')) return set_of(escape(/*in_class=*/false));
    if (text_[0] == '^') return fail(Code::unsupported, "has \"^\" elsewhere than at the front");
    if (std::string_view("*+?{").find(text_[0]) != std::string_view::npos) {
      return fail(Code::invalid_argument, fmt::format("has \"{}\" with nothing before it", text_[0]));
    }
    const char32_t character = take_character();
    return set_of(CharacterSet{{character, character}});
  }

  static Result<Expression> set_of(Result<CharacterSet> set) {
    if (!set.ok()) return set.status();
    return Expression{.kind = Expression::Kind::set, .set = *std::move(set)};
  }

  Result<Expression> group(int depth) {
    if (take("?:")) {
    } else if (take("?<")) {
      if (text_.starts_with('=') || text_.starts_with('!')) return fail(Code::unsupported, "looks behind");
      const size_t end = text_.find('>');
      if (end == std::string_view::npos) return fail(Code::invalid_argument, "has a group name without end");
      text_.remove_prefix(end + 1);
    } else if (text_.starts_with('?')) {
      return fail(Code::unsupported, "looks ahead or has flags");
    }
    ONSET_ASSIGN(Expression expression, alternatives(depth + 1));
    if (!take(')')) return fail(Code::invalid_argument, "has a \"(\" without \")\"");
    return expression;
  }

  // A quantifier, if one is next.
  Status quantify(Expression& part) {
    if (text_.empty()) return {};
    if (take('*')) {
      part.least = 0, part.most = unbounded;
    } else if (take('+')) {
      part.most = unbounded;
    } else if (take('?')) {
      part.least = 0;
    } else if (take('{')) {
      ONSET_ASSIGN(const auto least, number());
      if (!least) return fail(Code::invalid_argument, "has a \"{\" without a number");
      part.least = part.most = *least;
      if (take(',')) {
        ONSET_ASSIGN(const auto most, number());
        part.most = most.value_or(unbounded);
      }
      if (!take('}')) return fail(Code::invalid_argument, "has a \"{\" without \"}\"");
      if (part.most < part.least) return fail(Code::invalid_argument, "has a quantifier {n,m} with m less than n");
    } else {
      return {};
    }
    take('?');  // lazy: the same texts
    if (!text_.empty() && std::string_view("*+?{").find(text_[0]) != std::string_view::npos) {
      return fail(Code::invalid_argument, "has two quantifiers in a row");
    }
    return {};
  }

  Result<std::optional<uint32_t>> number() {
    std::optional<uint32_t> value;
    while (!text_.empty() && text_[0] >= '0' && text_[0] <= '9') {
      value = value.value_or(0) * 10 + static_cast<uint32_t>(text_[0] - '0');
      text_.remove_prefix(1);
      if (*value > most_repeats) return fail(Code::resource_exhausted, fmt::format("repeats more than {} times", most_repeats));
    }
    return value;
  }

  Result<CharacterSet> character_class() {
    const bool negated = take('^');
    CharacterSet allowed = all_characters();  // for a negated class: without what \d, \w and \s may be
    CharacterSet ranges;
    while (true) {
      if (text_.empty()) return fail(Code::invalid_argument, "has a \"[\" without \"]\"");
      if (take(']')) break;
      const char letter = text_.size() > 1 && text_[0] == '\\' ? text_[1] : ' ';
      if (letter == 'd' || letter == 'w' || letter == 's') allowed = without(allowed, without(all_characters(), opposite(letter)));
      ONSET_ASSIGN(const CharacterSet first, class_member());
      const bool single = first.size() == 1 && first[0].first == first[0].second;
      if (text_.size() >= 2 && text_[0] == '-' && text_[1] != ']') {
        text_.remove_prefix(1);
        ONSET_ASSIGN(const CharacterSet last, class_member());
        const bool ordered = single && last.size() == 1 && last[0].first == last[0].second && first[0].first <= last[0].first;
        if (!ordered) return fail(Code::invalid_argument, "has a range in \"[]\" that is not from a lower to a higher character");
        ranges.emplace_back(first[0].first, last[0].first);
      } else {
        ranges.insert(ranges.end(), first.begin(), first.end());
      }
    }
    CharacterSet set = character_set(std::move(ranges));
    if (negated) return without(allowed, set);
    return set;
  }

  Result<CharacterSet> class_member() {
    if (take('\\')) return escape(/*in_class=*/true);
    const char32_t character = take_character();
    return CharacterSet{{character, character}};
  }

  Result<CharacterSet> escape(bool in_class) {
    if (text_.empty()) return fail(Code::invalid_argument, "ends with a backslash");
    const char32_t letter = take_character();
    const auto one = [](char32_t character) { return CharacterSet{{character, character}}; };
    switch (letter) {
      case 'd':
      case 'w':
      case 's':
        return named(static_cast<char>(letter));
      case 'D':
      case 'W':
      case 'S':
        return opposite(static_cast<char>(letter | 0x20));
      case 't':
        return one('\t');
      case 'n':
        return one('\n');
      case 'v':
        return one('\v');
      case 'f':
        return one('\f');
      case 'r':
        return one('\r');
      case '0':
        return one(0);
      case 'x':
        return hex_character(2);
      case 'u':
        return take('{') ? braced_character() : hex_character(4);
      case 'b':
        if (in_class) return one('\b');
        break;
      default:
        break;
    }
    const bool letter_or_digit = (letter >= '0' && letter <= '9') || (letter >= 'A' && letter <= 'Z') || (letter >= 'a' && letter <= 'z');
    if (!letter_or_digit) return one(letter);
    return fail(Code::unsupported, fmt::format("has the escape \"\\{}\"", static_cast<char>(letter)));
  }

  std::optional<uint32_t> hex_digit() {
    if (text_.empty()) return {};
    const std::string_view alphabet = "0123456789abcdef";
    const size_t value = alphabet.find(static_cast<char>(text_[0] | 0x20));
    if (value == std::string_view::npos || (value < 10 && text_[0] != alphabet[value])) return {};
    text_.remove_prefix(1);
    return static_cast<uint32_t>(value);
  }

  Result<CharacterSet> hex_character(int count) {
    char32_t value = 0;
    for (int i = 0; i < count; ++i) {
      const auto digit = hex_digit();
      if (!digit) return fail(Code::invalid_argument, "has an escape with too few hexadecimal digits");
      value = value * 16 + *digit;
    }
    return checked(value);
  }

  Result<CharacterSet> braced_character() {
    char32_t value = 0;
    int count = 0;
    for (std::optional<uint32_t> digit; count < 6 && (digit = hex_digit()); ++count) value = value * 16 + *digit;
    if (count == 0 || !take('}')) return fail(Code::invalid_argument, "has an escape \"\\u{\" that is not a code point");
    return checked(value);
  }

  Result<CharacterSet> checked(char32_t value) {
    if (value > 0x10ffff) return fail(Code::invalid_argument, "names a character past U+10FFFF");
    if (value >= 0xd800 && value <= 0xdfff) return fail(Code::unsupported, "names half a surrogate pair");
    return CharacterSet{{value, value}};
  }

  std::string_view text_;
};

// Writes expressions into a draft.
class Writer {
 public:
  Writer(AutomatonDraft& draft, size_t limit) : draft_(draft), limit_(limit) {}

  // The place after one run of the expression. Errors: resource_exhausted.
  Result<Place> add(Place from, const Expression& expression) {
    for (uint32_t i = 0; i < expression.least; ++i) {
      ONSET_ASSIGN(from, once(from, expression));
    }
    const Place end = draft_.add();
    if (expression.most == unbounded) {
      const Place loop = draft_.add();
      draft_.skip(from, loop);
      ONSET_ASSIGN(const Place back, once(loop, expression));
      draft_.skip(back, loop);
      draft_.skip(loop, end);
      return end;
    }
    for (uint32_t i = expression.least; i < expression.most; ++i) {
      draft_.skip(from, end);
      ONSET_ASSIGN(from, once(from, expression));
    }
    draft_.skip(from, end);
    return end;
  }

 private:
  Result<Place> once(Place from, const Expression& expression) {
    // Repeats of nothing cost nothing but time.
    if (draft_.size() > limit_ || ++work_ > 16 * limit_) {
      return error(Code::resource_exhausted, "the pattern takes more than {} states", limit_);
    }
    switch (expression.kind) {
      case Expression::Kind::set: {
        const Place to = draft_.add();
        for (const auto& [first, last] : expression.set) draft_.edge(from, first, last, to);
        return to;
      }
      case Expression::Kind::sequence:
        for (const Expression& part : expression.parts) {
          ONSET_ASSIGN(from, add(from, part));
        }
        return from;
      case Expression::Kind::alternatives:
        break;
    }
    const Place end = draft_.add();
    for (const Expression& part : expression.parts) {
      const Place begin = draft_.add();
      draft_.skip(from, begin);
      ONSET_ASSIGN(const Place last, add(begin, part));
      draft_.skip(last, end);
    }
    return end;
  }

  AutomatonDraft& draft_;
  size_t limit_;
  size_t work_ = 0;
};

void add_any_text(AutomatonDraft& draft, Place place) {
  for (const auto& [first, last] : all_characters()) draft.edge(place, first, last, place);
}

}  // namespace

Result<Automaton> compile_pattern(std::string_view pattern, size_t limit) {
  ONSET_ASSIGN(const std::vector<Alternative> alternatives, Parser(pattern).parse());
  AutomatonDraft draft;
  Writer writer(draft, limit);
  for (const Alternative& alternative : alternatives) {
    const Place begin = draft.add();
    draft.skip(0, begin);
    if (!alternative.at_front) add_any_text(draft, begin);
    ONSET_ASSIGN(const Place last, writer.add(begin, alternative.expression));
    const Place end = draft.add();
    draft.skip(last, end);
    if (!alternative.at_end) add_any_text(draft, end);
    draft.set_final(end);
  }
  return determinise(draft, limit);
}

}  // namespace onset
