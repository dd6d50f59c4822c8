#include "onset/text/jinja_parser.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include "onset/text/jinja_expression_parser.h"

namespace onset::jinja {
namespace {

using Words = std::initializer_list<std::string_view>;

class StatementParser {
 public:
  explicit StatementParser(std::string_view source) : in_(source) {}

  std::shared_ptr<const Program> run() {
    in_.program().body = parse_body({}, {});
    in_.harden_unknown(0);
    return in_.finish();
  }

 private:
  using StatementPointer = std::unique_ptr<Statement>;

  // What surrounds the statements being parsed.
  struct Surroundings {
    bool in_loop = false;  // whether break and continue have a loop to act on
  };

  static StatementPointer make(StatementKind kind, int line) {
    auto node = std::make_unique<Statement>();
    node->kind = kind;
    node->line = line;
    return node;
  }

  // Statements up to a tag that begins with one of `end_words`, whose name is then the current token; without
  // words, up to the end of the template.
  Block parse_body(Words end_words, Surroundings around) {
    Block body;
    while (true) {
      const int line = in_.current().line;
      switch (in_.current().kind) {
        case TokenKind::data: {
          auto node = make(StatementKind::text, line);
          node->text = in_.take().text;
          body.push_back(std::move(node));
          break;
        }
        case TokenKind::variable_begin: {
          in_.take();
          auto node = make(StatementKind::print, line);
          node->expressions.push_back(in_.parse_tuple());
          in_.expect(TokenKind::variable_end);
          body.push_back(std::move(node));
          break;
        }
        case TokenKind::block_begin:
          in_.take();
          for (const std::string_view word : end_words) {
            if (in_.at_name(word)) return body;
          }
          body.push_back(parse_statement(around, end_words));
          in_.expect(TokenKind::block_end);
          break;
        default:
          if (end_words.size() != 0) {
            ExpressionParser::fail_at(line, "Unexpected end of template. Jinja was looking for '{}'", fmt::join(end_words, "' or '"));
          }
          return body;
      }
    }
  }

  // The body behind a tag's own words, up to one of `end_words`.
  Block parse_block(Words end_words, Surroundings around) {
    in_.skip_symbol(":");
    in_.expect(TokenKind::block_end);
    ExpressionParser::Nesting nesting(in_);
    return parse_body(end_words, around);
  }

  // The same, and the end word itself is read too; what is in it checks its filters at once.
  Block parse_inner_block(std::string_view end_word, Surroundings around) {
    const size_t mark = in_.unknown_mark();
    Block body = parse_block({end_word}, around);
    in_.take();
    in_.harden_unknown(mark);
    return body;
  }

  StatementPointer parse_statement(Surroundings around, Words end_words) {
    const int line = in_.current().line;
    if (in_.current().kind != TokenKind::name) ExpressionParser::fail_at(line, "tag name expected");
    const std::string tag = in_.take().text;
    if (tag == "if") return parse_if(line, around);
    if (tag == "for") return parse_for(line, around);
    if (tag == "set") return parse_set(line, around);
    if (tag == "macro") return parse_macro(line);
    if (tag == "call") return parse_call_block(line);
    if (tag == "filter") return parse_filter_block(line, around);
    if (tag == "with") return parse_with(line, around);
    if (tag == "print") return parse_print(line);
    if (tag == "generation") return parse_generation(line);
    if (tag == "break" || tag == "continue") {
      if (!around.in_loop) ExpressionParser::fail_at(line, "'{}' outside of a loop", tag);
      return make(tag == "break" ? StatementKind::break_loop : StatementKind::continue_loop, line);
    }
    static constexpr std::array<std::string_view, 6> kOutside{"block", "extends", "include", "import", "from", "autoescape"};
    if (std::find(kOutside.begin(), kOutside.end(), tag) != kOutside.end()) {
      throw Failure{Code::unsupported, fmt::format("line {}: the tag '{}' is not supported", line, tag)};
    }
    if (end_words.size() == 0) ExpressionParser::fail_at(line, "Encountered unknown tag '{}'.", tag);
    ExpressionParser::fail_at(line, "Encountered unknown tag '{}'. Jinja was looking for '{}'", tag, fmt::join(end_words, "' or '"));
  }

  StatementPointer parse_if(int line, Surroundings around) {
    const size_t mark = in_.unknown_mark();
    auto node = make(StatementKind::conditional, line);
    while (true) {
      node->expressions.push_back(in_.parse_tuple(false));
      node->blocks.push_back(parse_block({"elif", "else", "endif"}, around));
      if (in_.skip_name("elif")) continue;
      if (in_.skip_name("else")) {
        node->blocks.push_back(parse_block({"endif"}, around));
      }
      in_.take();
      break;
    }
    in_.forgive_unknown(mark);
    return node;
  }

  StatementPointer parse_for(int line, Surroundings around) {
    auto node = make(StatementKind::loop, line);
    in_.begin_loop();
    node->targets.push_back(in_.parse_target(false, "in"));
    in_.expect_word("in");
    node->expressions.push_back(in_.parse_tuple(false, "recursive"));
    const size_t mark = in_.unknown_mark();
    node->expressions.push_back(in_.skip_name("if") ? in_.parse_expression() : nullptr);
    node->recursive = in_.skip_name("recursive");
    // A recursive loop's body is a function of its own, so an outer loop is out of reach from its else.
    node->blocks.push_back(parse_block({"endfor", "else"}, {.in_loop = true}));
    if (in_.skip_name("else")) {
      node->blocks.push_back(parse_block({"endfor"}, {.in_loop = around.in_loop && !node->recursive}));
    } else {
      node->blocks.emplace_back();
    }
    in_.take();
    in_.harden_unknown(mark);
    in_.end_loop();
    return node;
  }

  StatementPointer parse_set(int line, Surroundings around) {
    Target target = in_.parse_target(true);
    if (in_.skip_symbol("=")) {
      auto node = make(StatementKind::assign, line);
      node->targets.push_back(std::move(target));
      node->expressions.push_back(in_.parse_tuple());
      return node;
    }
    auto node = make(StatementKind::assign_block, line);
    node->targets.push_back(std::move(target));
    const size_t mark = in_.unknown_mark();
    node->expressions.push_back(in_.parse_filter(nullptr, false));
    node->blocks.push_back(parse_inner_block("endset", around));
    in_.harden_unknown(mark);
    return node;
  }

  // (a, b=default, ...)
  void parse_signature(Macro& macro) {
    in_.expect_symbol("(");
    while (!in_.at_symbol(")")) {
      if (!macro.parameters.empty()) in_.expect_symbol(",");
      const int line = in_.current().line;
      std::string text;
      const uint32_t name = in_.parse_target_name(&text);
      for (const auto& [other, other_text] : macro.parameters) {
        if (other == name) ExpressionParser::fail_at(line, "duplicate argument '{}' in a macro", text);
      }
      if (macro.parameters.size() >= 255) ExpressionParser::fail_at(line, "a macro with more than 255 arguments");
      macro.parameters.emplace_back(name, std::move(text));
      if (in_.skip_symbol("=")) {
        macro.defaults.push_back(in_.parse_expression());
      } else if (!macro.defaults.empty()) {
        ExpressionParser::fail_at(line, "non-default argument follows default argument");
      }
    }
    in_.take();
  }

  void parse_macro_body(Macro& macro, std::string_view end_word, int line) {
    in_.begin_macro();
    macro.body = parse_inner_block(end_word, {});
    const ExpressionParser::MacroScope scope = in_.end_macro();
    const auto names = [&](uint32_t name) {
      return std::any_of(macro.parameters.begin(), macro.parameters.end(), [&](const auto& parameter) { return parameter.first == name; });
    };
    const Program& program = in_.program();
    const size_t required = macro.parameters.size() - macro.defaults.size();
    for (size_t i = 0; i < required; ++i) {
      if (scope.caller && macro.parameters[i].first == program.caller) {
        ExpressionParser::fail_at(line,
                                  "When defining macros or call blocks the special \"caller\" argument must be "
                                  "omitted or be given a default.");
      }
    }
    macro.uses_caller = scope.caller && !names(program.caller);
    macro.uses_keywords = scope.keywords && !names(program.keywords);
    macro.uses_varargs = scope.varargs && !names(program.varargs);
  }

  StatementPointer parse_macro(int line) {
    auto node = make(StatementKind::macro, line);
    node->macro = std::make_unique<Macro>();
    node->targets.emplace_back();
    node->targets[0].name = in_.parse_target_name(&node->macro->name);
    parse_signature(*node->macro);
    parse_macro_body(*node->macro, "endmacro", line);
    return node;
  }

  StatementPointer parse_call_block(int line) {
    auto node = make(StatementKind::call_block, line);
    node->macro = std::make_unique<Macro>();
    if (in_.at_symbol("(")) parse_signature(*node->macro);
    node->expressions.push_back(in_.parse_expression());
    if (node->expressions[0]->kind != ExpressionKind::call) ExpressionParser::fail_at(line, "expected call");
    parse_macro_body(*node->macro, "endcall", line);
    return node;
  }

  StatementPointer parse_filter_block(int line, Surroundings around) {
    auto node = make(StatementKind::filter_block, line);
    const size_t mark = in_.unknown_mark();
    node->expressions.push_back(in_.parse_filter(nullptr, true));
    node->blocks.push_back(parse_inner_block("endfilter", around));
    in_.harden_unknown(mark);
    return node;
  }

  StatementPointer parse_with(int line, Surroundings around) {
    auto node = make(StatementKind::with, line);
    while (in_.current().kind != TokenKind::block_end) {
      if (!node->targets.empty()) in_.expect_symbol(",");
      node->targets.push_back(in_.parse_target(false));
      in_.expect_symbol("=");
      node->expressions.push_back(in_.parse_expression());
    }
    node->blocks.push_back(parse_inner_block("endwith", around));
    return node;
  }

  StatementPointer parse_print(int line) {
    auto node = make(StatementKind::print, line);
    while (in_.current().kind != TokenKind::block_end) {
      if (!node->expressions.empty()) in_.expect_symbol(",");
      node->expressions.push_back(in_.parse_expression());
    }
    return node;
  }

  StatementPointer parse_generation(int line) {
    auto node = make(StatementKind::generation, line);
    node->blocks.push_back(parse_inner_block("endgeneration", {}));
    return node;
  }

  ExpressionParser in_;
};

}  // namespace

std::shared_ptr<const Program> parse_program(std::string_view source) {
  return StatementParser(source).run();
}

}  // namespace onset::jinja
