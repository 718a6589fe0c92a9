#include "check/remote.h"

namespace ptxsim::check {

namespace {

using Any = std::shared_ptr<const void>;

Any join_leaves(const Any& a, const Any& b) {
  const auto& x = *static_cast<const Leaf*>(a.get());
  const auto& y = *static_cast<const Leaf*>(b.get());
  if (x.order.contains(y.order) && x.proxied.contains(y.proxied)) return a;
  if (y.order.contains(x.order) && y.proxied.contains(x.proxied)) return b;
  auto both = std::make_shared<Leaf>(x);
  both->order.join(y.order);
  both->proxied.join(y.proxied);
  return both;
}

Any join(const Any& a, const Any& b, int level) {
  if (a == b || !b) return a;
  if (!a) return b;
  if (level < 0) return join_leaves(a, b);
  const auto& x = *static_cast<const RemoteNode*>(a.get());
  const auto& y = *static_cast<const RemoteNode*>(b.get());
  RemoteNode node;
  bool is_a = true, is_b = true;
  for (size_t k = 0; k < 16; ++k) {
    node.child[k] = join(x.child[k], y.child[k], level - 1);
    is_a &= node.child[k] == x.child[k];
    is_b &= node.child[k] == y.child[k];
  }
  if (is_a) return a;
  if (is_b) return b;
  return std::make_shared<RemoteNode>(std::move(node));
}

Any with(const Any& map, uint64_t cluster, Any leaf, int level) {
  if (level < 0) return leaf;
  auto node = map ? std::make_shared<RemoteNode>(*static_cast<const RemoteNode*>(map.get()))
                  : std::make_shared<RemoteNode>();
  Any& child = node->child[cluster >> 4 * level & 15];
  child = with(child, cluster, std::move(leaf), level - 1);
  return node;
}

}  // namespace

int remote_levels(uint64_t clusters) {
  int levels = 1;
  while (levels < 16 && clusters > uint64_t{1} << 4 * levels) ++levels;
  return levels;
}

Remote remote_join(const Remote& a, const Remote& b, int levels) {
  return std::static_pointer_cast<const RemoteNode>(join(a, b, levels - 1));
}

Remote remote_with(const Remote& map, uint64_t cluster, std::shared_ptr<const Leaf> leaf, int levels) {
  return std::static_pointer_cast<const RemoteNode>(with(map, cluster, std::move(leaf), levels - 1));
}

const Leaf* remote_find(const Remote& map, uint64_t cluster, int levels) {
  const void* at = map.get();
  for (int level = levels - 1; at && level >= 0; --level)
    at = static_cast<const RemoteNode*>(at)->child[cluster >> 4 * level & 15].get();
  return static_cast<const Leaf*>(at);
}

}  // namespace ptxsim::check
