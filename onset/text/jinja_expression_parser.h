// The half of the parser that knows tokens, names and expressions; jinja_parser.cc has the statements.
//
// Both follow jinja2's recursive-descent grammar rule by rule (jinja2/parser.py names the rules the same
// way).
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "onset/text/jinja_ast.h"
#include "onset/text/jinja_lexer.h"

namespace onset::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::string_view source);

  // --- tokens

  const Token& current() const { return tokens_[at_]; }
  Token take();
  bool at_symbol(std::string_view symbol) const { return is_symbol(current(), symbol); }
  bool at_name(std::string_view name) const { return is_name(current(), name); }
  bool skip_symbol(std::string_view symbol) { return at_symbol(symbol) && (take(), true); }
  bool skip_name(std::string_view name) { return at_name(name) && (take(), true); }
  void expect_symbol(std::string_view symbol);
  void expect_word(std::string_view name);
  Token expect(TokenKind kind);

  template <typename... Args>
  [[noreturn]] static void fail_at(int line, fmt::format_string<Args...> format, Args&&... args) {
    fail("line {}: {}", line, fmt::format(format, std::forward<Args>(args)...));
  }

  // --- expressions

  ExpressionPointer parse_expression(bool with_conditional = true);
  // Expressions with commas between them become a tuple. `end_name` may end it (besides the end of the tag).
  ExpressionPointer parse_tuple(bool with_conditional = true, std::string_view end_name = {});
  Target parse_target(bool with_namespace, std::string_view end_name = {});
  // A name that becomes a variable.
  uint32_t parse_target_name(std::string* text = nullptr);
  // | a | b(c) over `operand`, or with start_inline a | b without the first bar; null when there is none.
  ExpressionPointer parse_filter(ExpressionPointer operand, bool start_inline);

  // --- names, and what is known only after the fact

  Program& program() { return *program_; }
  std::shared_ptr<const Program> finish();

  // Around a macro's body: which special names it asks for.
  struct MacroScope {
    bool caller = false, varargs = false, keywords = false;
    std::vector<uint32_t> stored;
  };
  void begin_macro() { macros_.emplace_back(); }
  MacroScope end_macro();
  void begin_loop() { ++loops_; }
  void end_loop() { --loops_; }

  // A filter or test that does not exist makes jinja2 refuse the template, but inside an `if` only once it
  // runs. What was met since unknown_mark() is one or the other.
  size_t unknown_mark() const { return unknown_.size(); }
  void harden_unknown(size_t mark);
  void forgive_unknown(size_t mark);

  // Counts one level of nesting while it lives.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser& parser);
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    ExpressionParser& parser_;
  };

 private:
  struct Unknown {
    int line = 0;
    std::string message;
    bool in_jinja = false;
    bool hard = false;
  };

  static bool is_symbol(const Token& token, std::string_view symbol) { return token.kind == TokenKind::symbol && token.text == symbol; }
  static bool is_name(const Token& token, std::string_view name) { return token.kind == TokenKind::name && token.text == name; }
  const Token& following() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool at_tuple_end(std::string_view end_name) const;

  uint32_t intern(const std::string& name);
  static ExpressionPointer make(ExpressionKind kind, int line);
  void adopt(Expression& parent, ExpressionPointer child);
  void deepen(Expression& parent, int depth);
  void adopt_arguments(Expression& parent, std::unique_ptr<CallArguments> arguments);
  ExpressionPointer make_variable(const Token& token);
  void note_stored(uint32_t name, int line);
  void note_unknown(int line, const char* what, const std::string& name, bool in_jinja);

  ExpressionPointer parse_conditional();
  ExpressionPointer parse_or();
  ExpressionPointer parse_and();
  ExpressionPointer parse_not();
  ExpressionPointer parse_compare();
  ExpressionPointer parse_sum();
  ExpressionPointer parse_concatenation();
  ExpressionPointer parse_product();
  ExpressionPointer parse_power();
  ExpressionPointer parse_filtered_unary() { return parse_unary(true); }
  ExpressionPointer parse_unary(bool with_filter);
  ExpressionPointer parse_primary();
  ExpressionPointer parse_parentheses();
  ExpressionPointer parse_list();
  ExpressionPointer parse_dictionary();
  ExpressionPointer parse_postfix(ExpressionPointer node);
  ExpressionPointer parse_filters_and_tests(ExpressionPointer node);
  ExpressionPointer parse_subscript(ExpressionPointer node);
  ExpressionPointer parse_call(ExpressionPointer node);
  std::unique_ptr<CallArguments> parse_arguments();
  ExpressionPointer parse_test(ExpressionPointer node);
  std::string parse_dotted_name();
  Target parse_one_target(bool with_namespace);

  template <typename Operators>
  ExpressionPointer parse_chain(ExpressionKind kind, ExpressionPointer (ExpressionParser::*operand)(), const Operators& operators);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
  std::shared_ptr<Program> program_;
  std::unordered_map<std::string, uint32_t> names_;
  std::vector<MacroScope> macros_;
  std::vector<Unknown> unknown_;
};

}  // namespace onset::jinja
