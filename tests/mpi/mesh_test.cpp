#include "mpi/mesh.h"

#include <gtest/gtest.h>

#include <vector>

namespace contender {
namespace {

std::vector<int> members(const Group& g) {
  std::vector<int> ranks;
  for (int p = 0; p < g.size(); ++p) ranks.push_back(g.world_rank(p));
  return ranks;
}

TEST(MeshTest, GroupsOfEveryShape) {
  const int np = launcher_info().size;
  for (int tp = 1; tp <= np; tp *= 2) {
    for (int ep = 1; ep <= np; ep *= 2) {
      const Mesh mesh({.tp = tp, .dp = np / tp, .ep = ep, .edp = np / ep});
      const int r = mesh.rank();
      EXPECT_EQ(mesh.size(), np);
      std::vector<int> tp_ranks, dp_ranks, ep_ranks, edp_ranks;
      for (int q = 0; q < np; ++q) {
        if (q / tp == r / tp) tp_ranks.push_back(q);
        if (q % tp == r % tp) dp_ranks.push_back(q);
        if (q / ep == r / ep) ep_ranks.push_back(q);
        if (q % ep == r % ep) edp_ranks.push_back(q);
      }
      EXPECT_EQ(members(mesh.tp()), tp_ranks);
      EXPECT_EQ(members(mesh.dp()), dp_ranks);
      EXPECT_EQ(members(mesh.ep()), ep_ranks);
      EXPECT_EQ(members(mesh.edp()), edp_ranks);
      EXPECT_EQ(mesh.tp().rank(), r % tp);
      EXPECT_EQ(mesh.dp().rank(), r / tp);

      // The groups are separate: exchanges of both views at once.
      int64_t t = r, e = r, t_sum = 0, e_sum = 0;
      mesh.tp().all_reduce_sum("tp", &t, 1);
      mesh.ep().all_reduce_sum("ep", &e, 1);
      for (const int q : tp_ranks) t_sum += q;
      for (const int q : ep_ranks) e_sum += q;
      EXPECT_EQ(t, t_sum);
      EXPECT_EQ(e, e_sum);
    }
  }
}

TEST(MeshTest, RefusesAShapeThatIsNotTheJob) {
  const int np = launcher_info().size;
  for (const MeshShape& shape : {MeshShape{.tp = 2 * np, .edp = 2 * np}, MeshShape{.dp = np, .ep = 2 * np}}) {
    try {
      const Mesh mesh(shape);
      FAIL() << "no error";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
      EXPECT_NE(std::string(e.what()).find(fmt::format("the job has {} ranks", np)), std::string::npos)
          << e.what();
      EXPECT_NE(std::string(e.what()).find(std::to_string(2 * np)), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace contender
