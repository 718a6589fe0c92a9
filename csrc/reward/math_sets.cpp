#include "reward/math_sets.h"

#include <algorithm>
#include <vector>

#include "reward/math_lexer.h"
#include "reward/math_numeric.h"

namespace contender {
namespace {

constexpr size_t kMaxParts = 64;

Expr infinity(int sign) {
  Expr oo = {Op::kSymbol, "oo", {}, ""};
  return sign > 0 ? oo : Expr{Op::kNegate, "", {oo}, ""};
}

int order(const Expr& a, const Expr& b) {
  const int x = infinity_of(a), y = infinity_of(b);
  if (x != 0 || y != 0) return x < y ? -1 : x > y;
  const std::optional<int> known = order_of(a, b);
  if (!known) throw Unreadable("end points without an order");
  return *known;
}

struct Interval {
  Expr low, high;
  bool has_low = false, has_high = false;  // end points that belong to it
  bool empty() const {
    const int o = order(low, high);
    return o > 0 || (o == 0 && !(has_low && has_high));
  }
};
using RealSet = std::vector<Interval>;

// In order, without overlaps, nothing that could be joined.
RealSet canonical(RealSet set) {
  if (set.size() > kMaxParts) throw Unreadable("more than 64 intervals");
  std::erase_if(set, [](const Interval& i) { return i.empty(); });
  std::sort(set.begin(), set.end(), [](const Interval& a, const Interval& b) {
    const int o = order(a.low, b.low);
    return o < 0 || (o == 0 && a.has_low && !b.has_low);
  });
  RealSet joined;
  for (Interval& next : set) {
    if (!joined.empty()) {
      Interval& last = joined.back();
      const int gap = order(next.low, last.high);
      if (gap < 0 || (gap == 0 && (next.has_low || last.has_high))) {
        const int further = order(next.high, last.high);
        if (further > 0) last.high = next.high;
        last.has_high = further > 0 ? next.has_high : last.has_high || (further == 0 && next.has_high);
        continue;
      }
    }
    joined.push_back(std::move(next));
  }
  return joined;
}

RealSet complement(const RealSet& set) {
  RealSet rest;
  Interval gap = {infinity(-1), infinity(1)};
  for (const Interval& i : canonical(set)) {
    gap.high = i.low;
    gap.has_high = !i.has_low && infinity_of(i.low) == 0;
    rest.push_back(gap);
    gap.low = i.high;
    gap.has_low = !i.has_high && infinity_of(i.high) == 0;
  }
  gap.high = infinity(1);
  gap.has_high = false;
  rest.push_back(gap);
  return canonical(rest);
}

RealSet united(RealSet a, const RealSet& b) {
  a.insert(a.end(), b.begin(), b.end());
  return canonical(std::move(a));
}
RealSet intersected(const RealSet& a, const RealSet& b) {
  return complement(united(complement(a), complement(b)));
}

RealSet set_of(const Expr& e);

// x < 5, 5 >= x, x != 5: a lone symbol on one side.
RealSet inequality(const Expr& e) {
  const bool symbol_left = is_name(e.args[0]);
  const Expr& bound = e.args[symbol_left ? 1 : 0];
  if (e.text == "in") return set_of(e.args[1]);
  if (!symbol_left && !is_name(e.args[1])) throw Unreadable("no bound of a variable");
  if (e.text == "=") return {{bound, bound, true, true}};
  if (e.text == "!=") return complement({{bound, bound, true, true}});
  const bool closed = e.text.size() == 2;
  const bool below = (e.text[0] == '<') == symbol_left;
  return {below ? Interval{infinity(-1), bound, false, closed} : Interval{bound, infinity(1), closed, false}};
}

RealSet set_of(const Expr& e) {
  RealSet all;
  switch (e.op) {
    case Op::kTuple:
      if (e.args.size() != 2 || e.text == "<>" || e.text == "::") throw Unreadable("no interval");
      return canonical({{e.args[0], e.args[1], e.text[0] == '[', e.text[1] == ']'}});
    case Op::kSet:
      for (const Expr& point : e.args) all.push_back({point, point, true, true});
      return canonical(all);
    case Op::kList:
      for (size_t i = 0; i < e.args.size(); ++i) {
        const RealSet part = set_of(e.args[i]);
        all = i == 0 ? part : e.text == "chain" ? intersected(all, part) : united(all, part);
      }
      return all;
    case Op::kUnion:
      return united(set_of(e.args[0]), set_of(e.args[1]));
    case Op::kIntersection:
      return intersected(set_of(e.args[0]), set_of(e.args[1]));
    case Op::kDifference:
      return intersected(set_of(e.args[0]), complement(set_of(e.args[1])));
    case Op::kRelation:
      return canonical(inequality(e));
    case Op::kSymbol:
      if (e.text == "reals") return {{infinity(-1), infinity(1)}};
      if (e.text == "empty") return {};
      [[fallthrough]];
    default:
      throw Unreadable("no set of real numbers");
  }
}

}  // namespace

int infinity_of(const Expr& e) {
  if (e.op == Op::kSymbol) return e.text == "oo" ? 1 : 0;
  return e.op == Op::kNegate ? -infinity_of(e.args[0]) : 0;
}

bool is_real_set(const Expr& e) {
  switch (e.op) {
    case Op::kTuple:
      return e.args.size() == 2 &&
             (e.text == "[)" || e.text == "(]" || infinity_of(e.args[0]) != 0 || infinity_of(e.args[1]) != 0);
    case Op::kUnion:
    case Op::kIntersection:
    case Op::kDifference:
      return true;
    case Op::kRelation:
      return e.text != "=" && e.text != "in";
    case Op::kList:
      return std::all_of(e.args.begin(), e.args.end(), is_real_set);
    case Op::kSymbol:
      return e.text == "reals";
    default:
      return false;
  }
}

bool same_real_sets(const Expr& a, const Expr& b) {
  const RealSet x = set_of(a), y = set_of(b);
  return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const Interval& i, const Interval& j) {
    return i.has_low == j.has_low && i.has_high == j.has_high && order(i.low, j.low) == 0 &&
           order(i.high, j.high) == 0;
  });
}

}  // namespace contender
