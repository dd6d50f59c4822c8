// Walks a Program. One Interpreter renders one template once.
#pragma once

#include <ctime>
#include <deque>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "onset/text/jinja_ast.h"
#include "onset/text/jinja_builtins.h"
#include "onset/text/jinja_value.h"

namespace onset::jinja {

// The variables of a block: of the template (one place for each of its names), of one turn of a loop, or of a
// call.
struct Scope : Object {
  std::shared_ptr<Scope> parent;                      // none for the template's own
  std::vector<Value> by_name;                         // the template's: indexed by name
  std::vector<std::pair<uint32_t, Value>> variables;  // the others'
  bool is_captured = false;                           // a macro refers to it
};

struct MacroObject : Object {
  const Macro* macro = nullptr;
  std::shared_ptr<Scope> closure;
};
std::string macro_name(const Value& value);

// The special variable `loop`.
struct LoopObject : Object {
  const Statement* statement = nullptr;
  std::shared_ptr<Scope>* outer = nullptr;  // where the loop stands; null once it is over
  Value source;
  std::optional<Iterator> items;
  std::deque<Value> ahead;  // items that `last`, `nextitem` or `length` had to look at
  Value previous, current;
  int64_t index0 = -1;
  int64_t known_length = -1;
  int64_t depth0 = 0;
  std::optional<Value> last_changed;
};

class Interpreter {
 public:
  Interpreter(const Program& program, const Limits& limits, std::optional<std::tm> now);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // Throws Failure.
  std::string run(const nlohmann::ordered_json& variables);
  // Where the last evaluation stood.
  int line() const { return line_; }

 private:
  using ScopePointer = std::shared_ptr<Scope>;
  enum class Flow { normal, break_loop, continue_loop };

  // Counts one level of evaluation while it lives: of blocks in blocks, expressions in expressions, calls in
  // calls.
  class Level {
   public:
    explicit Level(Interpreter& in) : in_(in) {
      if (++in_.level_ > kMaxLevels) in_.fail_deep();
    }
    ~Level() { --in_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    static constexpr int kMaxLevels = 600;
    Interpreter& in_;
  };
  [[noreturn]] void fail_deep() const;

  // --- scopes
  ScopePointer make_scope(const ScopePointer& parent);
  void clear_scope(ScopePointer& scope, const ScopePointer& parent);
  Value lookup(uint32_t name, const Scope& scope);
  void store(uint32_t name, Value value, Scope& scope);
  void assign(const Target& target, const Value& value, const ScopePointer& scope);
  void assign_attribute(const Target& target, const Value& value, const ScopePointer& scope);
  void require_namespaces(const Target& target, const ScopePointer& scope);

  // --- statements
  Flow execute(const Block& block, const ScopePointer& scope, TextBuilder& out);
  Flow execute_one(const Statement& statement, const ScopePointer& scope, TextBuilder& out);
  Flow execute_conditional(const Statement& statement, const ScopePointer& scope, TextBuilder& out);
  void execute_assign(const Statement& statement, const ScopePointer& scope);
  Flow execute_assign_block(const Statement& statement, const ScopePointer& scope);
  Flow execute_filter_block(const Statement& statement, const ScopePointer& scope, TextBuilder& out);
  Flow execute_with(const Statement& statement, const ScopePointer& scope, TextBuilder& out);
  void execute_call_block(const Statement& statement, const ScopePointer& scope, TextBuilder& out);
  void print(const Statement& statement, const ScopePointer& scope, TextBuilder& out);
  Value make_macro(const Macro& macro, const ScopePointer& scope);
  Value filter_text(const Expression* filter, std::string text, const ScopePointer& scope);

  // --- loops
  Flow run_loop(const Statement& statement, const Value& source, int64_t depth0, ScopePointer scope, TextBuilder& out);
  bool pull(LoopObject& loop, Value& out);
  bool pull_ahead(LoopObject& loop);
  bool loop_attribute(const Value& value, std::string_view name, Value& out);
  Value call_loop_method(LoopObject& loop, std::string_view name, const Arguments& arguments);
  int64_t loop_length(LoopObject& loop);

  // --- expressions
  Value evaluate(const Expression& expression, const ScopePointer& scope);
  Value evaluate_deep(const Expression& expression, const ScopePointer& scope);
  Value evaluate_items(const Expression& expression, const ScopePointer& scope);
  Value evaluate_dictionary(const Expression& expression, const ScopePointer& scope);
  Value evaluate_attribute(const Expression& expression, const ScopePointer& scope);
  Value evaluate_slice(const Expression& expression, const ScopePointer& scope);
  Value evaluate_logical(const Expression& expression, const ScopePointer& scope);
  Value evaluate_arithmetic(const Expression& expression, const ScopePointer& scope);
  Value evaluate_concatenation(const Expression& expression, const ScopePointer& scope);
  Value evaluate_comparison(const Expression& expression, const ScopePointer& scope);
  Value evaluate_conditional(const Expression& expression, const ScopePointer& scope);
  Value evaluate_filter(const Expression& expression, const ScopePointer& scope);
  Value evaluate_test(const Expression& expression, const ScopePointer& scope);
  Value evaluate_call(const Expression& expression, const ScopePointer& scope, const Value* caller);
  Arguments evaluate_arguments(const CallArguments* arguments, const ScopePointer& scope);
  Value attribute_of(const Value& value, const Value& name, bool prefer_item);

  // --- calls
  Value call(const Value& callee, const Arguments& arguments);
  Value call_macro(const MacroObject& object, const Arguments& arguments);
  void bind_parameters(const Macro& macro, const Arguments& arguments, const ScopePointer& scope);
  Value call_global(std::string_view name, const Arguments& arguments);
  Table table_of(std::string_view function, const Arguments& arguments);
  Value format_time(const Arguments& arguments);

  Heap heap_;  // first, so that it dies last
  const Program& program_;
  std::optional<std::tm> now_;
  int line_ = 0;
  int level_ = 0;
  Value block_text_;  // what a filter without an operand works on
  ScopePointer root_;
  // What can hold itself, to be taken apart at the end.
  std::vector<ScopePointer> captured_;
  std::vector<std::shared_ptr<NamespaceObject>> namespaces_;
};

}  // namespace onset::jinja
